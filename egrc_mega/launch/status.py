"""`egrc status RUN`: how a run is, by what it has written and by who holds its folder, from any machine that has it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from egrc_mega.errors import RunError
from egrc_mega.lock import Holder, holder_of
from egrc_mega.observe.console import clock
from egrc_mega.observe.events import read_events
from egrc_mega.plain_text import plain
from egrc_mega.run_folder import LOCK, STOP, has_begun

State = Literal["running", "finished", "stopped", "crashed"]
ENDS: dict[str, State] = {"end": "finished", "stopped": "stopped", "stop": "stopped"}
"""Kinds of events after which a run that nobody holds is no crashed one, and what it is then."""
BEGINNINGS = ("run", "resume")


@dataclass
class RunStatus:
    """How a run is. Moments are seconds since 1970, by the clocks of the machines that have written them."""

    run: str
    state: State = "crashed"
    holder: str | None = None
    """The process that holds the folder; of a run that is over, the last one that did."""
    step: int = 0
    """The last one that is done."""
    total_steps: int | None = None
    """At most; None: no step is done yet."""
    stage: str | None = None
    step_in_stage: int | None = None
    committed_step: int | None = None
    committed_time: float | None = None
    event: str | None = None
    """Kind of the last event."""
    event_time: float | None = None
    event_age_s: float | None = None
    hosts: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of the ranks' processes by host, in the ranks' order."""
    servers: list[str] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """The rows of the last evaluation: label, step, set, temperature, accuracy, mean_length."""
    restarts: int = 0
    """By supervisors."""
    reason: str | None = None
    """Why it has ended, or was left, where somebody has said so."""
    is_asked_to_stop: bool = False


def look(run: Path) -> RunStatus:
    """Read what there is to know; nothing is changed.

    Raises:
        RunError: the folder holds no run.
    """
    holder = holder_of(run / LOCK)
    if not has_begun(run) and holder is None:
        raise RunError(f"{run} holds no run: there is no metrics.jsonl; give the folder that run.dir names")
    status = RunStatus(run=str(run), holder=holder)
    last_end: str | None = None
    for event in read_events(run / "metrics.jsonl") if has_begun(run) else ():
        kind = str(event.get("kind"))
        last_end = kind if kind in ENDS else None if kind in (*BEGINNINGS, "step") else last_end
        _take(status, kind, event)
    if holder is not None:
        status.state, status.reason = "running", None
        status.is_asked_to_stop = (run / STOP).exists()
    else:
        status.state = ENDS[last_end] if last_end else "crashed"
        last = last_holder(run)
        status.holder = str(last) if last else None
    if status.event_time is not None:
        status.event_age_s = max(0.0, time.time() - status.event_time)
    return status


def last_holder(run: Path) -> Holder | None:
    """Who has held the folder last."""
    try:
        return Holder.read((run / LOCK).read_text())
    except (OSError, UnicodeDecodeError):
        return None


def _take(status: RunStatus, kind: str, event: dict[str, Any]) -> None:
    status.event, status.event_time = kind, event.get("time")
    if kind in BEGINNINGS:
        status.reason = None
    elif kind == "step":
        status.step, status.total_steps = event["step"], event.get("total_steps")
        status.stage, status.step_in_stage = event.get("stage"), event.get("step_in_stage")
    elif kind == "committed":
        status.committed_step, status.committed_time = event["step"], event.get("time")
    elif kind == "processes":
        status.hosts, status.servers = event.get("hosts", {}), event.get("servers", [])
    elif kind == "evaluation":
        _take_evaluation(status, event)
    elif kind == "restart":
        status.restarts += 1
    if kind in ("stop", "stopped", "left"):
        status.reason = event.get("text") or event.get("reason")


def _take_evaluation(status: RunStatus, event: dict[str, Any]) -> None:
    """A row of the evaluation that the rows before belong to, or the first of a later one."""
    names = ("label", "step", "set", "temperature", "accuracy", "mean_length")
    row = {name: event.get(name) for name in names}
    if status.evaluations and [row[n] for n in names[:2]] != [status.evaluations[0][n] for n in names[:2]]:
        status.evaluations.clear()
    status.evaluations.append(row)


def lines(status: RunStatus) -> Iterator[str]:
    """All of it for people."""
    now = time.time()
    yield _row("run", f"{status.run}: {status.state}" + _reason(status))
    if status.holder:
        yield _row("rank 0", status.holder + ("" if status.state == "running" else ", which has ended"))
    if status.step:
        total = f" of at most {status.total_steps}" if status.total_steps else ""
        yield _row("step", f"{status.step}{total}, stage {status.stage}, its step {status.step_in_stage}")
    else:
        yield _row("step", "none is done yet")
    if status.committed_step is not None:
        yield _row("commit", f"step {status.committed_step}{_ago(status.committed_time, now)}")
    if status.event:
        yield _row("last event", f"{status.event}{_ago(status.event_time, now)}")
    for host, pids in status.hosts.items():
        yield _row("ranks", f"{host}: processes {' '.join(map(str, pids))}")
    for url in status.servers:
        yield _row("server", url)
    for row in status.evaluations:
        yield _row("evaluation", _evaluation(row))
    if status.restarts:
        yield _row("restarts", str(status.restarts))


def _row(name: str, text: str) -> str:
    return f"{name:<11} {plain(text)}"


def _reason(status: RunStatus) -> str:
    if status.is_asked_to_stop:
        return "; it was asked to stop, and ends after the step under way"
    if status.reason:
        return f"; {status.reason}"
    return "; nobody holds the folder, and it has not said that it ends" if status.state == "crashed" else ""


def _ago(moment: float | None, now: float) -> str:
    return "" if moment is None else f", {clock(max(0.0, now - moment))} ago"


def _evaluation(row: dict[str, Any]) -> str:
    accuracy = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}%"
    on = f" on {row['set']}" if row["set"] else ""
    return (
        f"{row['label']}, step {row['step']}{on}, T {row['temperature']:g}: accuracy {accuracy}, "
        f"mean length {row['mean_length']:.1f}"
    )
