"""Spans of time with a name, the one source of all timings: `with span("rollout", groups=4): ...`.

A recorder collects the spans that have ended, of all threads of its process, in a bounded buffer; once a step they are
taken, summed for the step's record and written as one event. Spans nest within their thread: the own time of a span is
what the spans inside it do not account for, so the own times of a thread add up to the time that it was watched.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

CAPACITY = 100_000
"""Spans that wait to be taken; at some two hundred bytes each they need 20 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One that has ended. Times are of the monotonic clock, in seconds: see `Recorder.wall_time`."""

    name: str
    start: float
    end: float
    inside_s: float
    """What spans of the same thread took that were opened and closed within this one, counted once."""
    depth: int
    """0 for a span that no other span of its thread holds."""
    thread: str
    rank: int
    facts: dict[str, Any]
    error: str | None
    """Class of the exception that ended it."""

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.end - self.start

    @property
    def own_seconds(self) -> float:
        """Without the spans inside."""
        return max(0.0, self.seconds - self.inside_s)


@dataclass(slots=True)
class _Open:
    """A span under way."""

    name: str
    thread: int
    depth: int
    facts: dict[str, Any]
    start: float
    inside_s: float = 0.0


class Recorder:
    """Collects the spans of a process."""

    def __init__(self, rank: int = 0, capacity: int = CAPACITY) -> None:
        self.rank = rank
        self.num_lost = 0
        """Spans that the full buffer had no room for since they were last taken: the oldest go."""
        self._ended: deque[Span] = deque(maxlen=capacity)
        self._lock = threading.Lock()
        self._innermost: ContextVar[_Open | None] = ContextVar("innermost", default=None)
        # one anchor ties the monotonic clock to the wall's, whose jumps no span sees
        self.wall_offset = time.time() - time.monotonic()
        """Ranks take over rank 0's, so that all tell of one clock."""

    @contextmanager
    def span(self, name: str, /, **facts: Any) -> Iterator[dict[str, Any]]:
        """Time the block. Yields the facts, to which the block may add what it learns; an exception ends it, too."""
        thread = threading.current_thread()
        outer = self._innermost.get()
        if outer is not None and outer.thread != thread.ident:  # a context that was handed to another thread
            outer = None
        opened = _Open(name, thread.ident or 0, outer.depth + 1 if outer else 0, facts, time.monotonic())
        token = self._innermost.set(opened)
        error: str | None = None
        try:
            yield opened.facts
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            self._innermost.reset(token)
            self._end(opened, outer, thread.name, error)

    def take(self) -> list[Span]:
        """The spans that have ended since the last call, in the order of their ends; they are forgotten here."""
        with self._lock:
            taken = list(self._ended)
            self._ended.clear()
            self.num_lost = 0
        return taken

    def wall_time(self, moment: float) -> float:
        """A moment of the monotonic clock in seconds since the epoch."""
        return moment + self.wall_offset

    def event(self, spans: Iterable[Span]) -> dict[str, Any]:
        """Fields of the event that tells of spans: `EventLog.write("spans", **recorder.event(spans))`."""
        return {
            "spans": [
                {
                    "name": span.name,
                    "start": self.wall_time(span.start),
                    "end": self.wall_time(span.end),
                    "seconds": span.seconds,
                    "own_seconds": span.own_seconds,
                    "depth": span.depth,
                    "thread": span.thread,
                    "rank": span.rank,
                    "facts": span.facts,
                    "error": span.error,
                }
                for span in sorted(spans, key=lambda span: (span.start, span.depth))
            ]
        }

    def _end(self, opened: _Open, outer: _Open | None, thread: str, error: str | None) -> None:
        span = Span(
            name=opened.name,
            start=opened.start,
            end=time.monotonic(),
            inside_s=opened.inside_s,
            depth=opened.depth,
            thread=thread,
            rank=self.rank,
            facts=opened.facts,
            error=error,
        )
        if outer is not None:
            outer.inside_s += span.seconds
        with self._lock:
            self.num_lost += len(self._ended) == self._ended.maxlen
            self._ended.append(span)


def own_seconds(spans: Iterable[Span], thread: str | None = None) -> dict[str, float]:
    """Own time by name, summed over the spans; of one thread, where that is given.

    Summed over all names of one thread it is the time that the thread was watched.
    """
    sums: dict[str, float] = {}
    for span in spans:
        if thread is None or span.thread == thread:
            sums[span.name] = sums.get(span.name, 0.0) + span.own_seconds
    return sums


RECORDER = Recorder()
"""Of this process. The run says which rank it is."""
span = RECORDER.span
