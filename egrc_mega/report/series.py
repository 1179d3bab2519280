"""Curves of several runs in small plots beside each other: one plot a figure, one line a setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from egrc_mega.report.figures import GREY, STYLE
from egrc_mega.report.svg import inline_svg

COLUMNS = 3
DASHES: tuple[Literal["-"], Literal["--"]] = ("-", "--")
"""Of the first ten lines, and of the next ten, whose colours are the same."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One small plot of a figure, with a line for each setting."""

    title: str
    lines: Mapping[str, Sequence[float]]
    """Name -> its value at steps 1, 2, ...; NaN where there is none. A name has one colour in all panels."""


def draw_series(panels: Sequence[Panel], title: str) -> str:
    """The panels as one `<svg>` element with one legend.

    Args:
        panels: at least one.
        title: for screen readers.
    """
    assert panels, "a plot of nothing"
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    num_rows = -(-len(panels) // COLUMNS)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            num_rows, COLUMNS, figsize=(11, 2.6 * num_rows + 0.5), layout="constrained", squeeze=False
        )
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, names)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = [pyplot.Line2D([], [], color=_colour(i), linestyle=_dash(i)) for i in range(len(names))]
        legend = figure.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_color(GREY)
        return inline_svg(figure, title)


def _draw_panel(axes: Axes, panel: Panel, names: Sequence[str]) -> None:
    for name, values in panel.lines.items():
        i = names.index(name)
        axes.plot(range(1, len(values) + 1), values, color=_colour(i), linestyle=_dash(i), linewidth=1.2)
    axes.set_title(panel.title, fontsize=9, color=GREY, parse_math=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step", color=GREY, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY, labelsize=8)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)


def _colour(i: int) -> str:
    return f"C{i % 10}"


def _dash(i: int) -> Literal["-", "--"]:
    return DASHES[(i // 10) % len(DASHES)]
