"""The base model's figures, measured once for all cells that measure it alike.

The evaluator looks at weights and protocol before it takes a figure over, so sharing a folder too many changes nothing.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import orjson

from egrc_mega.evaluation.sample_log import SAMPLES, read_samples
from egrc_mega.evaluation.store import BASE, RESPONSES, TABLE, add_point, read_responses, read_table
from egrc_mega.studies.grid import Cell

FOLDER = "bases"


def lend_base(cell: Cell, study_dir: Path) -> None:
    """Put the figures into a run folder that has none, where another cell has left them."""
    shared, run_dir = _shared(cell, study_dir), cell.folder / "run"
    if not shared.is_dir() or (run_dir / TABLE).exists():
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in (SAMPLES, RESPONSES, TABLE):
        if (shared / name).exists():
            partial = run_dir / f".{name}.lent"
            shutil.copyfile(shared / name, partial)
            partial.replace(run_dir / name)


def keep_base(cell: Cell, study_dir: Path) -> None:
    """Leave the base's figures of a finished run to the cells to come; the first to do so wins."""
    shared, run_dir = _shared(cell, study_dir), cell.folder / "run"
    if shared.is_dir():
        return
    partial = shared.with_name(f".{shared.name}.{cell.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    table, responses = read_table(run_dir), read_responses(run_dir)
    points = [point for point in table.points if (point.label, point.ordinal) == (BASE, 0)]
    judged = read_samples(run_dir, {(point.weights, point.protocol) for point in points})
    for point in points:
        key = (point.weights, point.protocol)
        own = [r for r in responses if (r.weights, r.protocol) == key]
        add_point(partial, table.protocols[point.protocol], point, own, judged.get(key, ()))
    with contextlib.suppress(OSError):  # somebody else's stands there now
        partial.rename(shared)
    shutil.rmtree(partial, ignore_errors=True)


def _shared(cell: Cell, study_dir: Path) -> Path:
    config = cell.config.to_dict()
    parts = [config[name] for name in ("model", "data", "grading", "evaluation")]
    parts += [config["rollout"]["environment"], config["megatron"]["bf16"]]
    return study_dir / FOLDER / hashlib.sha256(orjson.dumps(parts)).hexdigest()[:16]
