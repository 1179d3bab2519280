"""The figure of `scaling`: written by hand as SVG, so that it is the same text on every machine."""

import html
import math
from collections.abc import Iterator, Sequence

from egrc_mega.plan.scaling import Law, Point

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 20, 50
INK, GREY = "#222222", "#9a9a9a"
COLOURS = {"rollout": "#d9822b", "train": "#2f7f5f", "step": "#1f5fa8"}
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def scaling_figure(points: Sequence[Point], found: Law, title: str) -> str:
    """An SVG document: the model's points, the law as a line, and what perfect scaling would be."""
    frame = _Frame(points, found)
    body = [*_axes(frame, points), *_lines(frame, points, found), *_legend()]
    label = html.escape(title, quote=True)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        f'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f"<title>{html.escape(title)}</title>", *body, "</svg>"]) + "\n"


class _Frame:
    """Where on the page a number of GPUs and a number of seconds lie; both axes are logarithmic."""

    def __init__(self, points: Sequence[Point], found: Law) -> None:
        self.first, self.last = points[0].num_gpus, points[-1].num_gpus
        lowest = min(found.work / self.last, *(min(p.rollout, p.training) for p in points))
        highest = points[0].total
        self.low = max(tick for tick in TICKS if tick <= max(lowest, TICKS[0]))
        self.high = min(tick for tick in TICKS if tick >= highest)

    def x(self, num_gpus: float) -> float:
        share = math.log(num_gpus / self.first) / math.log(self.last / self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, seconds: float) -> float:
        share = math.log(max(seconds, self.low) / self.low) / math.log(self.high / self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _axes(frame: _Frame, points: Sequence[Point]) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in TICKS:
        if frame.low <= tick <= frame.high:
            y = frame.y(tick)
            yield f'<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="#e4e4e4"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end" fill="{INK}">{tick}</text>'
    for point in points:
        x = frame.x(point.num_gpus)
        yield f'<line x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 4}" stroke="{INK}"/>'
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle" fill="{INK}">{point.num_gpus}</text>'
    yield f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{INK}"/>'
    yield f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle" fill="{INK}">GPUs</text>'
    yield f'<text x="{LEFT - 45}" y="{TOP - 6}" fill="{INK}">seconds</text>'


def _lines(frame: _Frame, points: Sequence[Point], found: Law) -> Iterator[str]:
    fine = [frame.first * (frame.last / frame.first) ** (i / 40) for i in range(41)]
    by_law = " ".join(f"{frame.x(n)},{frame.y(found.floor + found.work / n)}" for n in fine)
    ideal = " ".join(f"{frame.x(n)},{frame.y(points[0].total * frame.first / n)}" for n in (frame.first, frame.last))
    yield f'<polyline points="{ideal}" fill="none" stroke="{GREY}" stroke-dasharray="4 4"/>'
    yield f'<polyline points="{by_law}" fill="none" stroke="{COLOURS["step"]}" stroke-width="1.5"/>'
    y = frame.y(found.floor)
    dots = f'stroke="{COLOURS["step"]}" stroke-dasharray="1 4"'
    yield f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" {dots}/>'
    for point in points:
        for name, seconds in (("rollout", point.rollout), ("train", point.training), ("step", point.total)):
            radius = 4 if name == "step" else 2.5
            x, place = frame.x(point.num_gpus), frame.y(seconds)
            yield f'<circle cx="{x}" cy="{place}" r="{radius}" fill="{COLOURS[name]}"/>'


def _legend() -> Iterator[str]:
    entries = (
        ("a step", COLOURS["step"]),
        ("its rollout", COLOURS["rollout"]),
        ("its training", COLOURS["train"]),
        ("as 1 / N", GREY),
        ("line: floor + work / N; dots: the floor", INK),
    )
    for place, (name, colour) in enumerate(entries):
        y = TOP + 10 + 16 * place
        yield f'<circle cx="{WIDTH - 250}" cy="{y - 4}" r="4" fill="{colour}"/>'
        yield f'<text x="{WIDTH - 240}" y="{y}" fill="{INK}">{name}</text>'
