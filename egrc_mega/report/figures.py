"""The report's curves as inline SVG: per step, the stage boundary marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from egrc_mega.report.svg import inline_svg

COLOURS = ("#2f6fde", "#d1662c", "#2a9d6f", "#9257c9")
GREY = "#8a8f98"
STYLE: Any = {"svg.fonttype": "path", "svg.hashsalt": "egrc_mega", "font.size": 9, "axes.edgecolor": GREY}


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure: fields of the step records over steps."""

    title: str
    caption: str
    fields: tuple[tuple[str, str], ...]
    """(field, label)"""
    is_share: bool = False


CURVES = (
    Curve(
        "Length",
        "mean output tokens per response, stop token included",
        (("length", "trained"), ("length_sampled", "all that ended")),
    ),
    Curve(
        "Accuracy and reward",
        "over graded samples; the stages score rewards differently",
        (("accuracy", "accuracy"), ("reward", "reward")),
    ),
    Curve(
        "Entropy",
        "nats per token the policy chose",
        (
            ("entropy", "T = 1, all"),
            ("entropy_rollout", "rollout T, all"),
            ("entropy_kept", "T = 1, kept"),
            ("entropy_rollout_kept", "rollout T, kept"),
        ),
    ),
    Curve(
        "Samples",
        "share of the batch",
        (("kept", "kept"), ("truncated", "truncated"), ("well_formed", "well formed"), ("ungraded", "ungraded")),
        is_share=True,
    ),
    Curve(
        "Verdicts without a comparison",
        "share of the batch; see docs/grading.md",
        (
            ("no_answer", "no answer"),
            ("reason_does_not_parse", "does not parse"),
            ("reason_unevaluated", "unevaluated"),
            ("reason_too_big", "too big"),
            ("reason_too_slow", "too slow"),
        ),
        is_share=True,
    ),
    Curve("Gradient norm", "before clipping", (("grad_norm", "gradient norm"),)),
    Curve(
        "Server against trainer",
        "log-prob differences before the update: what the gate bounds; a trend means weights that fall behind",
        (("logprob_diff_max", "largest"), ("logprob_diff_p99", "99th percentile"), ("logprob_diff_median", "median")),
    ),
    Curve(
        "Seconds per step",
        "where the time goes",
        (("time_rollout_s", "rollout"), ("time_train_s", "train"), ("time_grade_s", "grade"), ("time_sync_s", "sync")),
    ),
)


def draw_curves(steps: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Title, caption and SVG of every curve that has data."""
    figures = []
    for curve in CURVES:
        if any(step.get(field) is not None for step in steps for field, _label in curve.fields):
            figures.append({"title": curve.title, "caption": curve.caption, "svg": _draw(curve, steps)})
    return figures


def _draw(curve: Curve, steps: Sequence[dict[str, Any]]) -> str:
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(5.2, 2.7), layout="constrained")
        for (field, label), colour in zip(curve.fields, COLOURS, strict=False):
            values = [float("nan") if step.get(field) is None else step[field] for step in steps]
            axes.plot([step["step"] for step in steps], values, label=label, color=colour, linewidth=1.5)
        _decorate(axes, curve, steps)
        return inline_svg(figure, curve.title)


def _decorate(axes: Axes, curve: Curve, steps: Sequence[dict[str, Any]]) -> None:
    axes.set_ylim(bottom=0, top=1.02 if curve.is_share else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    axes.grid(color=GREY, alpha=0.18, linewidth=0.6)
    axes.set_xlabel("step", color=GREY)
    for before, after in pairwise(steps):
        if opens_stage(before, after):
            axes.axvline(before["step"] + 0.5, color=GREY, linestyle="--", linewidth=1)
            axes.annotate(
                f"{after['stage']} →",
                (before["step"] + 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -9),
                textcoords="offset points",
                color=GREY,
                fontsize=8,
            )
    if len(curve.fields) > 1:
        axes.legend(frameon=False, labelcolor=GREY, fontsize=8)


def opens_stage(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True when another stage begins between two steps: by its label, or, where it has the same one, by its count."""
    count = "step_in_stage"
    return bool(before["stage"] != after["stage"] or after.get(count, 1) < before.get(count, 0))
