"""The plots of a study: accuracy against length at each temperature, and the curves of training."""

import math
from collections.abc import Sequence
from statistics import fmean

from egrc_mega.report.pareto import ParetoPoint, draw_pareto
from egrc_mega.report.series import Panel, draw_series
from egrc_mega.studies.claims import BySetting
from egrc_mega.studies.lookup import temperatures
from egrc_mega.studies.statistics import Estimate
from egrc_mega.studies.table import Row, Table

PANELS = (
    ("length", "mean length, tokens"),
    ("accuracy", "accuracy on training problems"),
    ("entropy", "entropy at T = 1, nats"),
    ("connectors_check", "check words a response"),
    ("connectors_step", "step words a response"),
    ("compressing_groups", "groups selected to compress"),
    ("exploring_groups", "groups selected to explore"),
)
"""Field of the steps' records, and the panel's title; what no setting has is left out."""
SMOOTH = 5
MAX_SETTINGS = 8


def pareto_plots(table: Table, results: BySetting) -> dict[str, str]:
    """Name of a file -> SVG; one a temperature. Bars are one standard error over seeds."""
    everything = [result for own in results.values() for result in own]
    plots = {}
    for t in temperatures(everything):
        points = [point for row in table.rows if (point := _point(row, f"{t:g}")) is not None]
        if points:
            plots[f"pareto_t{t:g}"] = draw_pareto(points, f"Accuracy against length at T {t:g}")
    return plots


def _point(row: Row, t: str) -> ParetoPoint | None:
    accuracy, length = (row.values[f"{name}_t{t}"].estimate for name in ("accuracy", "length"))
    if accuracy is None or length is None:
        return None
    return ParetoPoint(
        row.setting,
        length.mean,
        accuracy.mean,
        _interval(length),
        _interval(accuracy),
        is_base=row.setting == row.point,
    )


def _interval(found: Estimate) -> tuple[float, float] | None:
    return None if found.error is None else (found.mean - found.error, found.mean + found.error)


def curve_plot(results: BySetting, chosen: Sequence[str] | None) -> str | None:
    """The panels of the chosen settings, or of all where they are few; None where there is nothing to draw."""
    names = [name for name in (results if chosen is None else chosen) if results.get(name)]
    if not names or (chosen is None and len(names) > MAX_SETTINGS):
        return None
    panels = [panel for field, title in PANELS if (panel := _panel(field, title, names, results)).lines]
    return draw_series(panels, "Curves of training") if panels else None


def _panel(field: str, title: str, names: Sequence[str], results: BySetting) -> Panel:
    lines = {name: _mean_curve([r.curves.get(field, ()) for r in results[name]]) for name in names}
    return Panel(title, {name: line for name, line in lines.items() if any(not math.isnan(v) for v in line)})


def _mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float]:
    """The mean over seeds at each step, then a moving mean over the last five steps; NaN where no seed has a value."""
    longest = max((len(curve) for curve in curves), default=0)
    means = [_mean([curve[i] for curve in curves if i < len(curve)]) for i in range(longest)]
    return [_mean(means[max(0, i - SMOOTH + 1) : i + 1]) for i in range(longest)]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return fmean(known) if known else math.nan
