"""What `metrics.jsonl` says, folded into columns and short lists; it is read on from where it was left."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.observe.follow import follow

Event = dict[str, Any]
ROUTINE = {
    "run",
    "template",
    "parts",
    "processes",
    "step",
    "fates",
    "spans",
    "switch",
    "evaluation",
    "best",
    "checkpoint",
    "committed",
    "end",
}
"""Kinds of events that tell of no trouble. Every other kind is listed as an incident, whatever it is called."""
MAX_INCIDENTS = 200
"""Incidents that are kept, the latest; all are counted."""
MAIN_THREAD = "MainThread"
HEAD_BYTES = 256
"""By so many first bytes one run's file is told from another's."""


@dataclass
class SpanSums:
    """All spans of one name."""

    count: int = 0
    own_s: float = 0.0
    longest_s: float = 0.0
    num_errors: int = 0


class Journal:
    """The steps of a run as columns, and what else has happened. Memory grows with the number of steps only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changes = 0
        """How often rows that had been read went again: a reader of the columns takes them anew when it changes."""
        self._forget()

    def _forget(self) -> None:
        """Nothing of the file has been read."""
        self.position = 0
        """Byte behind the last whole event that was read."""
        self.head = b""
        """The file's first bytes: those of another run differ, for an event has its time."""
        self.begun: float | None = None
        """Wall clock of the first event, in seconds since 1970; None: there is none."""
        self.last: float | None = None
        self.has_ended = False
        """The run has written its end, and nothing was trained since."""
        self.total_steps = 0
        self.steps: list[int] = []
        self.stages: list[str] = []
        """Label of each step's stage."""
        self.columns: dict[str, list[float | None]] = {}
        """Every number of the step records; None where a record has none."""
        self.switches: list[Event] = []
        self.checkpoints: list[int] = []
        self.incidents: list[Event] = []
        self.num_incidents: Counter[str] = Counter()
        """By kind."""
        self.spans: dict[tuple[str, bool], SpanSums] = {}
        """By name, and whether it was another thread than the main one."""

    def advance(self) -> None:
        """Read what has been written since; a file that is shorter, or begins otherwise, is another run's."""
        size, head = self.path.stat().st_size if self.path.exists() else 0, _head_of(self.path)
        if size < self.position or not head.startswith(self.head):
            self._forget()
            self.changes += 1
        self.head = head
        for event, position in follow(self.path, self.position, lambda: True):
            self.position = position
            self._take(event)

    def _take(self, event: Event) -> None:
        kind, when = str(event.get("kind")), event.get("time")
        if isinstance(when, int | float):
            self.begun, self.last = self.begun or when, when
        if kind == "step":
            self._take_step(event)
        elif kind == "spans":
            self._take_spans(event.get("spans", ()))
        elif kind == "switch":
            self.switches = [*(s for s in self.switches if s.get("step", 0) < event.get("step", 0)), event]
        elif kind == "checkpoint":
            self.checkpoints.append(event.get("step", 0))
        elif kind == "end":
            self.has_ended = True
        elif kind not in ROUTINE:
            self.has_ended = self.has_ended and kind != "resume"
            self._note(kind, event)

    def _take_step(self, event: Event) -> None:
        """A step that was taken again after a resume stands in the place of the earlier one, and ends what followed."""
        self.has_ended = False
        number = int(event["step"])
        kept = len(self.steps)
        while kept and self.steps[kept - 1] >= number:
            kept -= 1
        self.changes += kept < len(self.steps)
        del self.steps[kept:], self.stages[kept:]
        for column in self.columns.values():
            del column[kept:]
        self.total_steps = int(event.get("total_steps") or number)
        self.steps.append(number)
        self.stages.append(str(event.get("stage", "")))
        for name, value in event.items():
            if isinstance(value, int | float) and name not in ("step", "total_steps", "time"):
                self.columns.setdefault(name, [None] * kept).append(float(value))
        for column in self.columns.values():
            column.extend([None] * (kept + 1 - len(column)))
        self._note_troubles(event)

    def _note_troubles(self, event: Event) -> None:
        for text in event.get("server_events") or ():
            self._note("server", event, str(text))
        if event.get("updated") is False:
            self._note("no update", event, "no sample of the step had an advantage")

    def _note(self, kind: str, event: Event, text: str | None = None) -> None:
        self.num_incidents[kind] += 1
        known = {name: value for name, value in event.items() if name not in ("kind", "time", "step", "text")}
        said = text or event.get("text") or ", ".join(f"{name} {value}" for name, value in known.items())
        incident = {"kind": kind, "time": event.get("time"), "step": event.get("step"), "text": str(said)[:500]}
        self.incidents = [*self.incidents[-MAX_INCIDENTS + 1 :], incident]

    def _take_spans(self, spans: Any) -> None:
        for span in spans:
            key = str(span.get("name")), span.get("thread") != MAIN_THREAD
            sums = self.spans.setdefault(key, SpanSums())
            sums.count += 1
            sums.own_s += span.get("own_seconds") or 0.0
            sums.longest_s = max(sums.longest_s, span.get("seconds") or 0.0)
            sums.num_errors += span.get("error") is not None


def _head_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except FileNotFoundError:
        return b""
