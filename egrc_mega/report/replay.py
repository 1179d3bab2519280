"""Draws what a stage's rules saw in a recorded run, and where they would have ended the stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from egrc_mega.report.figures import COLOURS, GREY, STYLE
from egrc_mega.stages.replay import Replayed

FIELDS = (("entropy", "entropy at T = 1 (nats)"), ("length", "mean length (tokens)"), ("accuracy", "accuracy"))


def draw_replay(steps: Sequence[Mapping[str, Any]], replayed: Sequence[Replayed], path: Path) -> None:
    """Write the figure; its format is the path's suffix, e.g. .svg or .png."""
    with pyplot.rc_context(STYLE):
        figure, rows = pyplot.subplots(len(FIELDS), sharex=True, figsize=(8, 7), layout="constrained")
        for axes, (field, label), colour in zip(rows, FIELDS, COLOURS, strict=False):
            _draw_field(axes, steps, replayed, field, colour)
            axes.set_ylabel(label)
        rows[-1].set_xlabel("step")
        rows[0].legend(fontsize="small", frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)


def _draw_field(
    axes: Axes, steps: Sequence[Mapping[str, Any]], replayed: Sequence[Replayed], field: str, colour: str
) -> None:
    values = [float("nan") if step.get(field) is None else step[field] for step in steps]
    axes.plot([step["step"] for step in steps], values, color=colour, alpha=0.35, linewidth=1, label="recorded")
    for number, stage in enumerate(replayed):
        # the legend names each kind of line once
        hidden = "_" if number else ""
        means = [getattr(curves, field) for curves in stage.curves]
        places = range(stage.first_step, stage.first_step + len(means))
        shown = [float("nan") if mean is None else mean for mean in means]
        axes.plot(places, shown, color=colour, linewidth=1.8, label=f"{hidden}moving mean")
        axes.axvline(stage.last_step + 0.5, color=GREY, linestyle=":", linewidth=1, label=f"{stage.stage} ended")
        if stage.switch:
            axes.axvline(
                stage.switch.step + 0.5, color=GREY, linestyle="--", linewidth=1.5, label=f"rules end {stage.stage}"
            )
    axes.spines[["top", "right"]].set_visible(False)
