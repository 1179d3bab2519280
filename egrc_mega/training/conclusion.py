"""The end of a run: what it says of itself then, and what it says when it is resumed once more."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from egrc_mega import yaml_text
from egrc_mega.checkpoint.pointers import step_name
from egrc_mega.checkpoint.retention import whole_steps
from egrc_mega.checkpoint.state_file import read_state
from egrc_mega.config.config import Config, completed
from egrc_mega.errors import EgrcError
from egrc_mega.evaluation.overview import overview
from egrc_mega.evaluation.store import read_table
from egrc_mega.run_folder import REPORT, is_held
from egrc_mega.stages.best import Best, said
from egrc_mega.stages.resume import asks_the_same

TAIL_BYTES = 2**16
"""Of `metrics.jsonl`; the event of the end is a short line."""


def conclusion(run_dir: Path, best: Best) -> list[str]:
    """What came of a run, where it is, and what may come next."""
    lines = [*overview(read_table(run_dir)), f"export: {run_dir / 'export'}"]
    if best.by and best.score:
        lines.append(f"best: step {best.score.step}, {said(best.by, best.score)}; egrc export {run_dir}")
    return [*lines, f"report: {run_dir / REPORT}", f"next: egrc eval compare {run_dir}"]


def said_that_it_is_finished(config: Config) -> bool:
    """Whether the run has come to its end already; rank 0 says so then, and what came of it."""
    lines = finished(config)
    if lines and os.environ.get("RANK", "0") == "0":
        print(*lines, sep="\n", flush=True)
    return lines is not None


def finished(config: Config) -> list[str] | None:
    """What a run says that has come to its end already; None: there is something to do, or to refuse.

    It is at its end where its last event says so, the step is committed, export and report stand, and the configuration
    asks for nothing else than it did.
    """
    run_dir = config.run.dir
    end = _end(run_dir / "metrics.jsonl")
    step = end.get("step") if end else None
    if end is None or step is None or is_held(run_dir) or not _asks_the_same(run_dir / "config.yaml", config.to_dict()):
        return None
    committed = whole_steps(run_dir / "checkpoints")
    stands = (run_dir / "export" / "config.json").is_file() and (run_dir / REPORT).is_file()
    if not stands or not committed or committed[-1].name != step_name(step):
        return None
    try:
        # an earlier version told of the best no more than what was known when the last step was committed
        best = Best.model_validate(end.get("best") or read_state(committed[-1]).get("best", {}))
        lines = conclusion(run_dir, best)
    except (EgrcError, ValueError):
        return None
    return [
        f"{run_dir} is finished: all of it was done at step {step}; nothing is started",
        *lines,
        "to go on: give its last stage more steps, or add a stage, with --resume",
    ]


def _end(path: Path) -> dict[str, Any] | None:
    """The event of a run's end; None where that is not the last that it has written."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            event = orjson.loads(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    except (OSError, orjson.JSONDecodeError):
        return None
    return event if isinstance(event, dict) and event.get("kind") == "end" else None


def _asks_the_same(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a configuration differs from that of a file in nothing that decides about the outcome."""
    try:
        before = yaml_text.read(path.read_text())
    except (OSError, *yaml_text.UNREADABLE):
        return False
    return isinstance(before, dict) and asks_the_same(completed(before), config)
