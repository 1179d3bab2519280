"""Builds `report.html` from what a run has written. Derived data only: it can be rebuilt at any time."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import yaml

from egrc_mega import __version__
from egrc_mega.errors import RunError
from egrc_mega.evaluation.store import read_responses, read_table
from egrc_mega.observe.events import read_events, read_steps
from egrc_mega.report.figures import draw_curves

MAX_RESPONSES = 12


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into the run folder: one file, no network, no script.

    Works on a run that is still going. Raises:
        RunError: the folder holds no run.
    """
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        raise RunError(f"{run_dir} holds no metrics.jsonl; give the folder of a run")
    steps, points = read_steps(metrics), read_table(run_dir)["points"]
    config_file = run_dir / "config.yaml"
    config_text = config_file.read_text() if config_file.exists() else ""
    page = _template().render(
        name=run_dir.resolve().name,
        config=yaml.safe_load(config_text) or {},
        config_text=config_text,
        version=__version__,
        is_finished=any(event["kind"] == "end" for event in read_events(metrics)),
        steps=steps,
        headline=_headline(points),
        tables=_tables(points),
        figures=draw_curves(steps),
        responses=_responses(read_responses(run_dir)),
    )
    report = run_dir / "report.html"
    partial = run_dir / ".report.html.tmp"
    partial.write_text(page, encoding="utf-8")
    partial.replace(report)
    return report


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("egrc_mega", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "-" if share is None else f"{100 * share:.1f}\u00a0%"
    return environment.get_template("report.html.j2")


def _headline(points: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """First and last point of the first temperature, once there are two."""
    rows = [point for point in points if point["temperature"] == points[0]["temperature"]]
    if len(rows) < 2:
        return None
    return {"base": rows[0], "final": rows[-1], "share": rows[-1]["mean_length"] / rows[0]["mean_length"]}


def _tables(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table a temperature, its rows in the order they were measured."""
    ordered = sorted(points, key=lambda point: float(point["temperature"]))
    tables = []
    for temperature, group in groupby(ordered, key=lambda point: point["temperature"]):
        rows = list(group)
        base = next((row["mean_length"] for row in rows if row["stage"] == "base"), None)
        tables.append(
            {
                "temperature": temperature,
                "rows": [row | {"share": row["mean_length"] / base if base else None} for row in rows],
            }
        )
    return tables


def _responses(responses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same problem's responses at every stage, side by side, at the first temperature."""
    first = [r for r in responses if r["temperature"] == responses[0]["temperature"]]
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for response in first:
        by_problem.setdefault(response["problem"], []).append(response)
    problems = list(by_problem.items())[:MAX_RESPONSES]
    return [{"problem": problem, "gold": rows[0]["gold"], "rows": rows} for problem, rows in problems]
