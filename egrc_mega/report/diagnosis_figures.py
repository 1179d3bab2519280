"""Draws a diagnosis: the bars of the paper's fig. 4, its word clouds, and entropy beside gradient size (fig. 3d)."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from egrc_mega.report.figures import COLOURS, GREY, STYLE
from egrc_mega.report.svg import inline_svg

SYMBOLS = {"right": "✓", "wrong": "✗"}
"""Over a bar, under its number of steps; a response without a verdict has none."""


def draw_bars(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One bar a response: its height is the length, the number on top its steps, the symbol its verdict (fig. 4).

    Args:
        rows: of `diagnosis.bars.paired`; where a length is unknown, all bars count words and signs.
    """
    sides = [side for side in ("base", "own") if any(row[side] for row in rows)]
    measure = "length" if all(row[s]["length"] is not None for row in rows for s in sides if row[s]) else "words"
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(max(5.2, 0.42 * len(rows) + 1), 3.4), layout="constrained")
        width = 0.8 / len(sides)
        for number, side in enumerate(sides):
            shown = [(i, row[side]) for i, row in enumerate(rows) if row[side]]
            places = [i + (number - (len(sides) - 1) / 2) * width for i, _bar in shown]
            heights = [bar[measure] for _i, bar in shown]
            label = {"base": "base", "own": "responses"}[side]
            axes.bar(places, heights, width, color=COLOURS[number], label=label)
            for place, height, (_i, bar) in zip(places, heights, shown, strict=True):
                _annotate(axes, place, height, bar)
        axes.set_xticks(range(len(rows)), [str(i + 1) for i in range(len(rows))], fontsize=7)
        axes.set_xlabel("problem", color=GREY)
        axes.set_ylabel("output tokens" if measure == "length" else "words and signs", color=GREY)
        axes.margins(x=0.01, y=0.12)
        if len(sides) > 1:
            axes.legend(frameon=False, labelcolor=GREY, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        _plain(axes)
        _save(figure, path, "Length, steps and verdict of each response")


def _annotate(axes: Axes, place: float, height: float, bar: dict[str, Any]) -> None:
    symbol = SYMBOLS.get(bar["verdict"] or "", "")
    colour = {"right": COLOURS[2], "wrong": COLOURS[1]}.get(bar["verdict"] or "", GREY)
    axes.annotate(
        f"{bar['steps']}\n{symbol}" if symbol else str(bar["steps"]),
        (place, height),
        xytext=(0, 1),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=5,
        color=colour,
    )


def draw_words(words: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """A word cloud in rows (fig. 3e): the nearer a word's mean entropy is to that of the first word, the larger it is.

    Args:
        words: sorted by entropy, either way, each with `text`, `entropy` (nats) and `count`; what the figure has no
            room for is left out.
    """
    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(5.2, 3.0))
        figure.text(0.02, 0.98, title, color=GREY, fontsize=9, va="top")
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.86))
        axes.set_axis_off()
        values = [word["entropy"] for word in words]
        first, last = (values[0], values[-1]) if values else (0.0, 0.0)
        sizes = [7 + 14 * ((value - last) / (first - last) if first != last else 0.5) for value in values]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn in its place
            _lay_out(axes, [_shown(word["text"]) for word in words], sizes)
            _save(figure, path, title)


def _lay_out(axes: Axes, texts: Sequence[str], sizes: Sequence[float]) -> None:
    """Words in rows from the top left, until there is no more room."""
    left, top, height = 0.0, 1.0, 0.0
    for number, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        word = axes.text(left, top, text, fontsize=size, color=colour, va="top", transform=axes.transAxes)
        word.set_parse_math(False)
        box = word.get_window_extent().transformed(axes.transAxes.inverted())
        if box.x1 > 1 and left > 0:
            left, top, height = 0.0, top - height, 0.0
            word.set_position((left, top))
        if top - box.height < 0:
            word.remove()
            return
        left, height = left + box.width + 0.025, max(height, 1.15 * box.height)


def draw_entropy_gradient(sample: Sequence[Sequence[float]], bounds: Sequence[float], path: Path) -> None:
    """Token entropy beside the size of its gradient at the logits, coloured by bins of p(token) (fig. 3d).

    Args:
        sample: (entropy in nats, gradient size, p(token)) of each token drawn.
        bounds: of the bins of p(token), from 0 to 1.
    """
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
        for number, (low, high) in enumerate(pairwise(bounds)):
            own = [row for row in sample if low <= row[2] < high or row[2] == high == 1]
            label = f"p from {low:g} to {high:g}"
            x, y = [row[0] for row in own], [row[1] for row in own]
            axes.scatter(x, y, s=3, color=COLOURS[number % len(COLOURS)], alpha=0.5, linewidths=0, label=label)
        axes.set_xlabel("token entropy (nats)", color=GREY)
        axes.set_ylabel("gradient size at the logits", color=GREY)
        axes.legend(frameon=False, labelcolor=GREY, fontsize=7, markerscale=3)
        _plain(axes)
        _save(figure, path, "Entropy and gradient size of tokens")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6, axis="y")


def _shown(text: str) -> str:
    """A word as it can be drawn: line ends and what has no glyph are written out."""
    drawn = text if text.isprintable() and text.strip() else repr(text)[1:-1]
    return drawn.encode("utf-8", "backslashreplace").decode()[:24]


def _save(figure: Figure, path: Path, name: str) -> None:
    """The figure as a file of its own, the same bytes every time."""
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{inline_svg(figure, name)}', encoding="utf-8")
