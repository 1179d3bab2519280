"""Makes a cell's result of what its run has written."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from egrc_mega import __version__
from egrc_mega.evaluation.sets import MAIN
from egrc_mega.evaluation.store import read_table
from egrc_mega.observe.events import read_events, read_steps
from egrc_mega.studies.connectors import connector_curves
from egrc_mega.studies.grid import Cell
from egrc_mega.studies.records import Result, StagePassed

FIELDS = ("step", "stage", "entropy", "entropy_rollout", "length", "accuracy", "kept", "truncated")
OWN = "method_"
"""Begins the fields of a record that only some methods have; left out here."""
BEGIN = ("run", "resume")
"""Events with which a process begins to train."""


def measure(cell: Cell, connectors: Mapping[str, Sequence[str]]) -> Result:
    """The result of a run that has gone to its end.

    Raises:
        RunError: a file of the run cannot be read.
    """
    run_dir = cell.folder / "run"
    events, steps = list(read_events(run_dir / "metrics.jsonl")), read_steps(run_dir / "metrics.jsonl")
    methods = {stage.name: stage.method for stage in cell.config.stages}
    return Result(
        setting=cell.setting,
        seed=cell.seed,
        points=[asdict(point) for point in read_table(run_dir).points if not point.within and point.set == MAIN],
        stages=_stages(events, methods),
        curves=_curves(steps) | connector_curves(run_dir, [step["step"] for step in steps], connectors),
        wall_s=training_seconds(events),
        started=events[0]["time"],
        ended=events[-1]["time"],
        machine=machine(),
        version=__version__,
    )


def machine() -> str:
    """This host in words, e.g. "2 x86_64 cores"."""
    return f"{os.cpu_count()} {platform.machine()} cores"


def training_seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """From each beginning to the last event before the next one, added up."""
    total, begun, last = 0.0, None, None
    for event in events:
        if event["kind"] in BEGIN:
            total += (last - begun) if begun is not None and last is not None else 0.0
            begun = event["time"]
        last = event["time"]
    return total + ((last - begun) if begun is not None and last is not None else 0.0)


def _stages(events: Sequence[Mapping[str, Any]], methods: Mapping[str, str]) -> list[StagePassed]:
    """In order; a switch that a resumed run made again counts once."""
    switches = {event["step"]: event for event in events if event["kind"] == "switch"}
    return [
        StagePassed(
            name=event["ended"],
            method=methods[event["ended"]],
            steps=event["steps_in_stage"],
            reason=event["reason"],
        )
        for _step, event in sorted(switches.items())
    ]


def _curves(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    own = sorted({name for step in steps for name in step if name.startswith(OWN)})
    curves = {name: [step.get(name) for step in steps] for name in FIELDS}
    return curves | {name.removeprefix(OWN): [step.get(name) for step in steps] for name in own}


def failure_of(log: Path, code: int) -> str:
    """Why a run has failed, by the end of what it said: its own errors, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line.partition("egrc: error: ")[2] for line in lines if line.startswith("egrc: error: ")]
    said = "; ".join(told[-3:]) or (lines[-1] if lines else "it said nothing")
    return f"exit code {code}: {said}"
