"""Builds `report.html` from what a run has written. Derived data only: it can be rebuilt at any time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from egrc_mega import __version__
from egrc_mega.errors import RunError
from egrc_mega.evaluation.records import SHOWN_DIGITS, Point, Response
from egrc_mega.evaluation.store import RESPONSES, TABLE, Table, read_responses, read_table
from egrc_mega.observe.events import read_events, read_steps
from egrc_mega.report.figures import draw_curves
from egrc_mega.report.template import template

MAX_RESPONSES = 12
METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
PARTS = {
    METRICS: "no curves",
    TABLE: "no table",
    RESPONSES: "no responses",
    CONFIG: "no configuration",
}
"""What a page is made of, and what it lacks without."""


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into the folder of a run or of `egrc eval`: one file, no network, no script.

    Works on a run that is still going, and on a folder that has only some of the files: the page says which it lacks.

    Raises:
        RunError: the folder holds neither steps nor measurements, or a file that cannot be read.
    """
    if not any((run_dir / name).is_file() for name in (METRICS, TABLE)):
        raise RunError(f"{run_dir} holds no {METRICS} and no {TABLE}; give the folder of a run, or of egrc eval --out")
    metrics = run_dir / METRICS
    events = list(read_events(metrics)) if metrics.exists() else []
    steps = read_steps(metrics) if metrics.exists() else []
    table = read_table(run_dir)
    config_text = (run_dir / CONFIG).read_text() if (run_dir / CONFIG).exists() else ""
    config = yaml.safe_load(config_text) or {}
    page = template("report.html.j2").render(
        name=run_dir.resolve().name,
        about=_about(config),
        config_text=config_text,
        missing=missing_parts(run_dir),
        is_stopped=bool(events) and not any(event["kind"] == "end" for event in events),
        has_run=bool(events),
        headline=_headline(table),
        tables=_tables(table),
        figures=draw_curves(steps),
        responses=_responses(table, read_responses(run_dir)),
    )
    report = run_dir / "report.html"
    partial = run_dir / ".report.html.tmp"
    partial.write_text(page, encoding="utf-8")
    partial.replace(report)
    return report


def missing_parts(run_dir: Path) -> list[str]:
    """The files that the folder lacks, each with what the page lacks for it."""
    return [f"{name} ({effect})" for name, effect in PARTS.items() if not (run_dir / name).is_file()]


def _about(config: Mapping[str, Any]) -> list[str]:
    """What stands below the page's name."""
    stages = [f"{stage_name(stage)} ({stage.get('steps', '?')} steps)" for stage in config.get("stages", [])]
    parts = [str(config.get("model", {}).get("path", "")), f"stages {', '.join(stages)}" if stages else ""]
    seed = config.get("run", {}).get("seed")
    parts += [f"seed {seed}" if seed is not None else "", f"egrc_mega {__version__}"]
    return [part for part in parts if part]


def stage_name(stage: Mapping[str, Any]) -> str:
    """How a stage of a configuration is called: by its label, else by its method."""
    return str(next((stage[key] for key in ("label", "method", "name") if stage.get(key)), "?"))


def _in_order(points: Sequence[Point]) -> list[Point]:
    """Base first, then the stages as they follow one another; of one stage the younger weights last."""
    return sorted(points, key=lambda point: (point.ordinal, point.step or 0))


def _headline(table: Table) -> dict[str, Any] | None:
    """The base and the last point of the first protocol that has both."""
    for key in table.protocols:
        rows = _in_order([point for point in table.points if point.protocol == key])
        base = table.base_of(rows[0])
        if base is not None and rows[-1] is not base:
            return {"base": base, "final": rows[-1], "share": rows[-1].mean_length / base.mean_length}
    return None


def _tables(table: Table) -> list[dict[str, Any]]:
    """One table a protocol, by temperature."""
    tables = []
    for key, protocol in sorted(table.protocols.items(), key=lambda item: item[1].temperature):
        points = _in_order([point for point in table.points if point.protocol == key])
        rows = [_row(point, table.base_of(point)) for point in points]
        tables.append({"protocol": protocol, "key": key[:SHOWN_DIGITS], "rows": rows})
    return tables


def _row(point: Point, base: Point | None) -> dict[str, Any]:
    share = point.mean_length / base.mean_length if base else None
    return {"point": point, "name": _name(point), "weights": point.weights[:SHOWN_DIGITS], "share": share}


def _name(point: Point) -> str:
    """The row's label with the step of its weights, for a label may stand twice."""
    return point.label if not point.step else f"{point.label}, step {point.step}"


def _responses(table: Table, responses: Sequence[Response]) -> list[dict[str, Any]]:
    """The same problem's responses at every point of the first protocol, side by side."""
    first = next(iter(table.protocols), None)
    points = _in_order([point for point in table.points if point.protocol == first])
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        for response in responses:
            if (response.weights, response.protocol) == (point.weights, point.protocol):
                by_problem.setdefault(response.problem, []).append({"name": _name(point), "response": response})
    problems = list(by_problem.items())[:MAX_RESPONSES]
    return [{"problem": problem, "gold": rows[0]["response"].gold, "rows": rows} for problem, rows in problems]
