"""The plot of accuracy against length: who is not beaten in both, and by how much the others are."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from egrc_mega.report.figures import COLOURS, GREY, STYLE
from egrc_mega.report.svg import inline_svg

PLACES = [(x * radius, y * radius) for radius in (1, 2, 3.5, 5) for x, y in ((6, 5), (6, -9), (-6, 5), (-6, -9))]
"""Where a label may stand beside its point, in points of the page, the best place first."""


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One model or method in the plot."""

    name: str
    length: float
    """Mean output tokens."""
    accuracy: float
    """As a share, 0 to 1."""
    length_interval: tuple[float, float] | None = None
    """Drawn as a bar from low to high, in tokens; None: no bar."""
    accuracy_interval: tuple[float, float] | None = None
    """The same as shares."""
    is_base: bool = False
    """What the others began as: drawn in grey, with lines through it."""


def pareto_front(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    """Those that no other is at least as short *and* as accurate as, and better in one of the two; shortest first."""
    kept = [point for point in points if not any(_beats(other, point) for other in points)]
    return sorted(kept, key=lambda point: (point.length, -point.accuracy))


def _beats(one: ParetoPoint, other: ParetoPoint) -> bool:
    as_good = one.length <= other.length and one.accuracy >= other.accuracy
    return as_good and (one.length < other.length or one.accuracy > other.accuracy)


def draw_pareto(points: Sequence[ParetoPoint], title: str) -> str:
    """The plot as an `<svg>` element for a page: the front joined by a line, every point with its name where it fits.

    Args:
        points: at least one.
        title: for screen readers; the figure has no heading of its own.
    """
    assert points, "a plot of nothing"
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(8.4, 4.8), layout="constrained")
        front = pareto_front(points)
        axes.plot(
            [point.length for point in front],
            [100 * point.accuracy for point in front],
            color=COLOURS[0],
            alpha=0.35,
            linewidth=1.5,
            drawstyle="steps-post",
            zorder=1,
        )
        for point in points:
            _draw_point(axes, point, is_best=point in front)
        _decorate(axes)
        figure.draw_without_rendering()
        _name_points(axes, points)
        return inline_svg(figure, title)


def _draw_point(axes: Axes, point: ParetoPoint, *, is_best: bool) -> None:
    colour = GREY if point.is_base else COLOURS[0] if is_best else COLOURS[1]
    percent = 100 * point.accuracy
    axes.errorbar(
        [point.length],
        [percent],
        xerr=_bars(point.length, point.length_interval),
        yerr=_bars(percent, point.accuracy_interval, 100),
        fmt="s" if point.is_base else "o",
        color=colour,
        markersize=5,
        elinewidth=0.8,
        zorder=2,
    )
    if point.is_base:
        axes.axhline(percent, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
        axes.axvline(point.length, color=GREY, linestyle=":", linewidth=0.8, zorder=0)


def _bars(value: float, interval: tuple[float, float] | None, scale: float = 1) -> list[list[float]] | None:
    """Lengths of the bar below and above, as matplotlib wants them."""
    if interval is None:
        return None
    return [[max(0.0, value - scale * interval[0])], [max(0.0, scale * interval[1] - value)]]


def _decorate(axes: Axes) -> None:
    axes.margins(x=0.08, y=0.1)
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)
    axes.set_xlabel("mean length (tokens)", color=GREY)
    axes.set_ylabel("accuracy (%)", color=GREY)


def _name_points(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """Each name where it covers no other and no point; a name without such a place is left to the table."""
    marks = [axes.transData.transform((point.length, 100 * point.accuracy)) for point in points]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in marks]
    for point in points:
        _name_point(axes, point, taken)


def _name_point(axes: Axes, point: ParetoPoint, taken: list[Bbox]) -> None:
    for x, y in PLACES:
        label = axes.annotate(
            point.name,
            (point.length, 100 * point.accuracy),
            xytext=(x, y),
            textcoords="offset points",
            ha="left" if x > 0 else "right",
            fontsize=7.5,
            color=GREY,
            arrowprops={"arrowstyle": "-", "color": GREY, "alpha": 0.4, "linewidth": 0.5} if abs(x) > 6 else None,
            parse_math=False,
        )
        box = label.get_window_extent()
        inside = axes.bbox.padded(2)
        fits = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
        if fits and not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return
        label.remove()
