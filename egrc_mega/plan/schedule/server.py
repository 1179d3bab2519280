"""A rollout server as its load makes it: what runs shares each decoding step, and the rest waits for memory.

A decoding step adds a token to everything that runs; how long it takes depends on how much runs and on the keys and
values that it reads. Between two events the number that runs is constant, so the time of any number of steps is exact.
"""

import heapq
import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

TINY = 1e-6
"""Tokens; sums of many steps are not exact."""


class DecodeLaw(Protocol):
    """How fast a server is."""

    kv_tokens: float
    """Tokens whose keys and values fit into its memory."""
    kv_token_s: float
    """Seconds that a decoding step takes longer for each token that it reads keys and values of."""

    def dense_s(self, num_running: int) -> float:
        """Seconds of a decoding step apart from keys and values."""

    def prefill_s(self, num_tokens: float) -> float:
        """Seconds to compute keys and values of so many tokens."""


@dataclass(slots=True, eq=False)
class Job:
    """A request in a server."""

    key: object
    length: int
    """Tokens that it will have."""
    prompt_tokens: int
    entered: float = 0.0
    """The server's level when it began to run."""
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    """Once it has ended: version, start and end of the tokens that these weights have sampled."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where the time of servers went; the three add up to all of it."""

    generating: float = 0.0
    stalled: float = 0.0
    """Paused, or computing keys and values anew after a change of weights."""
    idle: float = 0.0

    @property
    def total(self) -> float:
        """The time of all servers together."""
        return self.generating + self.stalled + self.idle

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.generating + other.generating, self.stalled + other.stalled, self.idle + other.idle)

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.generating - other.generating, self.stalled - other.stalled, self.idle - other.idle)


class LoadedServer:
    """Moves only when it is told to: whoever owns the clock asks for `next_event` and calls `advance`."""

    def __init__(self, law: DecodeLaw, version: int = 0) -> None:
        self.law, self.now = law, 0.0
        self.seconds, self.num_tokens = Seconds(), 0.0
        self.level = 0.0
        """Tokens that a request would have that has run all along."""
        self.running: list[tuple[float, int, Job]] = []
        """A heap of the level at which each ends, a tie-breaker, and the request."""
        self.waiting: deque[Job] = deque()
        self.is_paused, self.stalled_until = False, 0.0
        self._entries = 0.0
        """Sum over what runs of the level at which it would have had no token, its prompt's included."""
        self._reserved = 0.0
        """Tokens that what runs will have at its end."""
        self._changes: list[tuple[float, int]] = [(0.0, version)]
        """Level from which on each version samples."""
        self._count = 0

    @property
    def version(self) -> int:
        """The version of its weights."""
        return self._changes[-1][1]

    @property
    def num_open(self) -> int:
        """Requests without an answer."""
        return len(self.running) + len(self.waiting)

    @property
    def contexts(self) -> float:
        """Tokens of everything that runs, prompts included."""
        return len(self.running) * self.level - self._entries

    def add(self, jobs: list[Job]) -> None:
        """Take requests, at the present moment."""
        self.waiting += jobs
        self._admit()

    def pause(self) -> None:
        """Generate no more until `resume`."""
        self.is_paused = True

    def load(self, version: int) -> None:
        """Sample from other weights from here on."""
        self._changes.append((self.level, version))

    def resume(self, *, recompute: bool) -> None:
        """Go on, after computing the keys and values of what runs anew where they were given up."""
        self.is_paused = False
        if recompute:
            self.stalled_until = self.now + self.law.prefill_s(self.contexts)
        self._admit()

    def next_event(self) -> float:
        """When the next request ends if nothing is added, or a stall does; infinity: never."""
        if self.is_paused or not self.running:
            return math.inf
        if self.stalled_until > self.now:
            return self.stalled_until
        return self.now + self._steps_s(self.running[0][0] - self.level)

    def advance(self, now: float) -> list[Job]:
        """Move on to a moment that is not behind the next event; what has ended by then."""
        elapsed, self.now = now - self.now, now
        if self.is_paused or self.stalled_until > now - elapsed:
            self.seconds += Seconds(stalled=elapsed)
            return []
        if not self.running:
            self.seconds += Seconds(idle=elapsed)
            return []
        self.seconds += Seconds(generating=elapsed)
        steps = min(self._num_steps(elapsed), self.running[0][0] - self.level)
        self.level += steps
        self.num_tokens += steps * len(self.running)
        return self._ended()

    def _steps_s(self, steps: float) -> float:
        """Seconds of so many decoding steps of what runs."""
        number = len(self.running)
        first = self.law.dense_s(number) + self.law.kv_token_s * self.contexts
        return steps * (first + self.law.kv_token_s * number * steps / 2)

    def _num_steps(self, seconds: float) -> float:
        """The inverse of `_steps_s`."""
        number = len(self.running)
        first = self.law.dense_s(number) + self.law.kv_token_s * self.contexts
        growth = self.law.kv_token_s * number
        return 2 * seconds / (first + math.sqrt(first**2 + 2 * growth * seconds))

    def _ended(self) -> list[Job]:
        ended = []
        while self.running and self.running[0][0] <= self.level + TINY:
            _level, _count, job = heapq.heappop(self.running)
            self._entries -= job.entered - job.prompt_tokens
            self._reserved -= job.length + job.prompt_tokens
            job.spans = self._spans(job)
            ended.append(job)
        if ended:
            self._admit()
        return ended

    def _admit(self) -> None:
        """In their order, as long as there is memory for all that runs to come to its end; one always runs."""
        while self.waiting and not self.is_paused:
            job = self.waiting[0]
            size = job.length + job.prompt_tokens
            if self.running and self._reserved + size > self.law.kv_tokens:
                return
            self.waiting.popleft()
            job.entered = self.level
            self._entries += job.entered - job.prompt_tokens
            self._reserved += size
            self._count += 1
            heapq.heappush(self.running, (self.level + job.length, self._count, job))

    def _spans(self, job: Job) -> list[tuple[int, int, int]]:
        """Which weights sampled which of its tokens, without empty spans."""
        first = bisect_right(self._changes, job.entered, key=lambda change: change[0]) - 1
        marks = [(round(max(0.0, level - job.entered)), version) for level, version in self._changes[first:]]
        ends = [mark for mark, _version in marks[1:]] + [job.length]
        found = [(version, start, min(end, job.length)) for (start, version), end in zip(marks, ends, strict=True)]
        return [span for span in found if span[1] < span[2]]
