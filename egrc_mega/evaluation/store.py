"""`evaluation.json`: the table of a run, with the protocol that makes its rows comparable."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.config.schema import EvaluationSection
from egrc_mega.errors import RunError
from egrc_mega.evaluation.runner import Measurement
from egrc_mega.evaluation.statistics import l_acc

TABLE = "evaluation.json"
RESPONSES = "evaluation_responses.json"
BASE = "base"


def read_table(run_dir: Path) -> dict[str, Any]:
    """The table, empty when nothing has been measured yet."""
    path = run_dir / TABLE
    table: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {"points": [], "protocol": None}
    return table


def has_stage(run_dir: Path, stage: str, temperatures: Sequence[float]) -> bool:
    """True when every temperature of a stage has been measured."""
    measured = {(point["stage"], point["temperature"]) for point in read_table(run_dir)["points"]}
    return {(stage, temperature) for temperature in temperatures} <= measured


def add_points(run_dir: Path, section: EvaluationSection, measurements: Sequence[Measurement]) -> None:
    """Add rows (replacing those of the same stage and temperature) and give each its L-Acc.

    Raises:
        RunError: the table's rows were measured by another protocol.
    """
    table = read_table(run_dir)
    protocol = section.model_dump(mode="json", exclude={"temperatures"})
    if table["protocol"] not in (None, protocol):
        raise RunError(
            f"{run_dir / TABLE} was measured as {table['protocol']}, now the protocol is {protocol}: "
            f"use the same evaluation section, or another run folder"
        )
    points = {(p["stage"], p["temperature"]): p for p in table["points"]}
    points |= {(m.point["stage"], m.point["temperature"]): m.point for m in measurements}
    for (_stage, temperature), point in points.items():
        base = points.get((BASE, temperature))
        known = base is not None and point["accuracy"] is not None
        point["l_acc"] = l_acc(point["accuracy"], point["mean_length"], base["mean_length"]) if base and known else None
    _add_responses(run_dir, measurements)
    _write(run_dir / TABLE, {"points": list(points.values()), "protocol": protocol})


def read_responses(run_dir: Path) -> list[dict[str, Any]]:
    """Sample responses of every point, empty when there are none."""
    path = run_dir / RESPONSES
    return list(orjson.loads(path.read_bytes())) if path.exists() else []


def _add_responses(run_dir: Path, measurements: Sequence[Measurement]) -> None:
    replaced = {(m.point["stage"], m.point["temperature"]) for m in measurements}
    kept = [r for r in read_responses(run_dir) if (r["stage"], r["temperature"]) not in replaced]
    _write(run_dir / RESPONSES, kept + [response for m in measurements for response in m.responses])


def _write(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
    partial.replace(path)
