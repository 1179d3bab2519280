"""One step of a run across ranks and servers, as Chrome and Perfetto show traces: `egrc trace RUN --step K`.

A step's trace begins when the step before was recorded, so its checkpoint comes first, and ends when the step itself
was: whatever overlaps that time is in it, whole. Every rank and server is a process, every thread of a rank one of its
threads. Of a server the first thread shows its states, and the others its requests: as many as it had at a time.
Format: "Trace Event Format" (Chromium), complete events; times are microseconds since the trace's begin, of one clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import RunError
from egrc_mega.observe.events import read_events
from egrc_mega.observe.rollouts import in_words
from egrc_mega.observe.span_log import SERVERS, rank_name, ranks_of, read_spans
from egrc_mega.run_folder import require_no_links_out

FIRST_SERVER = 1_000_000
"""Process number of server 0: above those of all ranks, which begin with 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One bar of the trace; seconds since the epoch."""

    name: str
    start: float
    end: float
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """The time of a step."""

    start: float
    end: float

    def holds(self, slice: Slice) -> bool:
        """Whether a slice lies in it, or over one of its ends."""
        return slice.start < self.end and slice.end > self.start


@dataclass(slots=True)
class Process:
    """A rank or a server."""

    number: int
    name: str
    threads: dict[str, list[Slice]] = field(default_factory=dict)
    """In the order in which they are shown."""


def write_trace(run_dir: Path, step: int | None, to: Path | None) -> tuple[Path, str]:
    """Write a step's trace; its file, and in words what it shows.

    Args:
        step: counted from 1; None: the newest.
        to: None: into the run's folder.

    Raises:
        RunError: the folder holds no run or a link out of it, or the run has no such step.
    """
    require_no_links_out(run_dir)
    events = _span_events(run_dir)
    number = int(events[-1]["step"]) if step is None else step
    window = window_of(events, number)
    ranks = [_rank_0(events, window), *_other_ranks(run_dir, window)]
    servers = _servers(run_dir, window)
    path = to or run_dir / f"trace_step_{number:06d}.json"
    path.write_bytes(orjson.dumps(trace_of([*ranks, *servers], window.start, number)))
    count = sum(len(slices) for process in (*ranks, *servers) for slices in process.threads.values())
    told = f"step {number}: {window.end - window.start:.2f} s, {count} spans of {_counted(ranks, 'rank')}"
    return path, f"{told} and {_counted(servers, 'server')}"


def _counted(processes: Sequence[Process], noun: str) -> str:
    return f"{len(processes)} {noun}{'' if len(processes) == 1 else 's'}"


def _span_events(run_dir: Path) -> list[dict[str, Any]]:
    """Events that tell of rank 0's spans, and those that tell of a process that began, in order."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        raise RunError(f"{run_dir} holds no run; give the folder of a run, finished or not")
    events = [event for event in read_events(path) if event.get("kind") in ("spans", "run", "resume")]
    if not any(event["kind"] == "spans" for event in events):
        raise RunError(f"{run_dir} has recorded no step yet; wait for the first one")
    while events[-1]["kind"] != "spans":
        events.pop()
    return events


def window_of(events: Sequence[dict[str, Any]], step: int) -> Window:
    """The time of a step: of the last time that it was taken, where a resumed run took it again.

    Raises:
        RunError: there is no such step.
    """
    places = [i for i, event in enumerate(events) if event["kind"] == "spans" and event["step"] == step]
    own = _slices(events[places[-1]]) if places else []
    if not own:
        known = sorted({event["step"] for event in events if event["kind"] == "spans" and event["spans"]})
        raise RunError(f"--step: the run has recorded no step {step}; it has {in_words(known)}")
    before = events[places[-1] - 1] if places[-1] else {"kind": "run"}
    # of an earlier process nothing says when it ended
    earlier = [slice.end for _, slice in _slices(before)] if before["kind"] == "spans" else []
    return Window(max(earlier or [min(s.start for _, s in own)]), max(slice.end for _, slice in own))


def _slices(event: dict[str, Any]) -> list[tuple[str, Slice]]:
    """Thread and slice of each span that an event tells of."""
    return [
        (
            span["thread"],
            Slice(
                name=span["name"],
                start=span["start"],
                end=span.get("end", span["start"] + span["seconds"]),
                args=span["facts"] | ({"error": span["error"]} if span["error"] else {}),
            ),
        )
        for span in event.get("spans", ())
    ]


def _rank_0(events: Iterable[dict[str, Any]], window: Window) -> Process:
    return _rank(0, (event for event in events if event["kind"] == "spans"), window)


def _other_ranks(run_dir: Path, window: Window) -> Iterator[Process]:
    for number in ranks_of(run_dir):
        process = _rank(number, read_spans(run_dir, rank_name(number)), window)
        if process.threads:  # of an earlier, larger world there may be files, and nothing of this step
            yield process


def _rank(number: int, events: Iterable[dict[str, Any]], window: Window) -> Process:
    process = Process(number + 1, f"rank {number}")
    for event in events:
        for thread, slice in _slices(event):
            if window.holds(slice):
                process.threads.setdefault(thread, []).append(slice)
    return process


def _servers(run_dir: Path, window: Window) -> list[Process]:
    """The servers of the process that took the step; one that did nothing in it shows its state."""
    found: dict[int, Process] = {}
    states: dict[int, list[tuple[float, str]]] = {}
    requests: dict[int, list[Slice]] = {}
    for event in read_spans(run_dir, SERVERS):
        for server in event["servers"]:
            number = int(server["number"])
            if event["time"] > window.start:  # else a server of an earlier process, which may be no more
                found[number] = Process(FIRST_SERVER + number, f"server {number} ({server['url']})")
            states.setdefault(number, []).extend(map(tuple, server["states"]))
            requests.setdefault(number, []).extend(
                slice
                for start, end, rid, facts in server["requests"]
                if window.holds(slice := Slice(name=rid, start=start, end=end, args=facts))
            )
    for number, process in sorted(found.items()):
        process.threads = {"state": list(_states(states[number], window)), "request": requests[number]}
    return [process for _, process in sorted(found.items()) if any(process.threads.values())]


def _states(changes: Sequence[tuple[float, str]], window: Window) -> Iterator[Slice]:
    """A slice for each state within the window, cut at its ends."""
    for (start, state), (end, _) in pairwise([*changes, (window.end, "")]):
        slice = Slice(name=state, start=start, end=end)
        if window.holds(slice):
            yield replace(slice, start=max(start, window.start), end=min(end, window.end))


def trace_of(processes: Sequence[Process], begin: float, step: int) -> dict[str, Any]:
    """The JSON object of a trace that begins at `begin`."""
    events: list[dict[str, Any]] = []
    thread_number = 0
    for process in processes:
        events.append(_named("process_name", process, 0, process.name))
        events.append(_named("process_sort_index", process, 0, process.number))
        for name, slices in process.threads.items():
            may_nest = process.number < FIRST_SERVER
            for number, lane in enumerate(lanes(slices, may_nest=may_nest)):
                thread_number += 1
                events.append(_named("thread_name", process, thread_number, f"{name} {number}" if number else name))
                events.append(_named("thread_sort_index", process, thread_number, thread_number))
                events += [_event(slice, process.number, thread_number, begin) for slice in lane]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"step": step, "begin": begin}}


def lanes(slices: Iterable[Slice], *, may_nest: bool) -> list[list[Slice]]:
    """Slices in as few rows as show them: in a row each begins after the one before, or lies within it if it may."""
    rows: list[_Row] = []
    for slice in sorted(slices, key=lambda slice: (slice.start, -slice.end)):
        row = next((row for row in rows if row.has_room(slice, may_nest)), None)
        if row is None:
            rows.append(row := _Row())
        row.slices.append(slice)
        row.ends.append(slice.end)
    return [row.slices for row in rows]


@dataclass(slots=True)
class _Row:
    """One row under way."""

    slices: list[Slice] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """Of the slices that are open at the start of the latest one, the outermost first."""

    def has_room(self, slice: Slice, may_nest: bool) -> bool:
        """Whether a slice that starts no earlier than the others fits."""
        while self.ends and self.ends[-1] <= slice.start:
            self.ends.pop()
        return not self.ends or (may_nest and slice.end <= self.ends[-1])


def _event(slice: Slice, process: int, thread: int, begin: float) -> dict[str, Any]:
    start, end = _microseconds(slice.start - begin), _microseconds(slice.end - begin)
    return {
        "ph": "X",
        "name": slice.name,
        "pid": process,
        "tid": thread,
        "ts": start,
        "dur": round(end - start, 3),
        "args": slice.args,
    }


def _named(kind: str, process: Process, thread: int, name: Any) -> dict[str, Any]:
    key = "sort_index" if kind.endswith("sort_index") else "name"
    return {"ph": "M", "name": kind, "pid": process.number, "tid": thread, "args": {key: name}}


def _microseconds(seconds: float) -> float:
    """To the nanosecond, which keeps the order of what a clock of floats can tell apart."""
    return round(seconds * 1e6, 3)
