"""The training part of the page: the step records as thinned columns, the stages' bands, the controller's decisions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from egrc_mega.report.journal import Journal

MAX_POINTS = 500
"""Points of a curve; of a longer run each one is the mean of several steps."""
DIGITS = 5
"""Significant digits of a number on the page."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure: fields of the step records over steps."""

    title: str
    caption: str
    fields: tuple[tuple[str, str], ...]
    """(field, label)"""
    is_share: bool = False
    is_log: bool = False


CHARTS = (
    Chart(
        "Length",
        "mean output tokens per response, stop token included; squares: evaluations",
        (("length", "trained"), ("length_sampled", "all that ended"), ("think_length", "think part")),
    ),
    Chart("Accuracy", "over graded samples; squares: evaluations", (("accuracy", "accuracy"),), is_share=True),
    Chart("Reward", "the stages score rewards differently", (("reward", "reward"),)),
    Chart(
        "Entropy",
        "nats per token that the policy chose",
        (
            ("entropy", "T = 1, all"),
            ("entropy_rollout", "rollout T, all"),
            ("entropy_kept", "T = 1, kept"),
            ("entropy_rollout_kept", "rollout T, kept"),
        ),
    ),
    Chart(
        "Samples",
        "share of the batch",
        (("kept", "kept"), ("truncated", "truncated"), ("well_formed", "well formed"), ("ungraded", "ungraded")),
        is_share=True,
    ),
    Chart(
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
    Chart("Gradient norm", "before clipping", (("grad_norm", "gradient norm"),)),
    Chart("Learning rate", "of the step's last update", (("lr", "learning rate"),)),
    Chart(
        "Policy change",
        "within the step's updates, and against the reference where the loss looks at it",
        (("approx_kl", "approximate KL"), ("clip_fraction", "clipped"), ("kl", "KL to the reference")),
    ),
    Chart(
        "Server against trainer",
        "log-prob differences before the update: what the gate bounds; a trend means weights that fall behind",
        (("logprob_diff_max", "largest"), ("logprob_diff_p99", "99th percentile"), ("logprob_diff_median", "median")),
        is_log=True,
    ),
    Chart(
        "Effective sample size",
        "share of the trained tokens and responses that is left once each is weighed by trainer / server probability",
        (("ess_tokens", "of tokens"), ("ess_sequences", "of responses")),
        is_share=True,
    ),
    Chart(
        "Groups",
        "prompts of the step, and those whose samples all had the same reward",
        (("groups", "groups"), ("groups_without_signal", "without signal"), ("carried_groups", "carried over")),
    ),
    Chart(
        "Staleness",
        "versions between the weights that sampled a token and those that were trained with it",
        (("version_lag_max", "oldest"), ("version_lag_mean", "mean")),
    ),
    Chart(
        "Throughput",
        "tokens per second, of rollouts and of training",
        (("tokens_per_s", "sampled"), ("train_tokens_per_s", "trained")),
    ),
)


def curves_of(journal: Journal, charts: Sequence[Chart] = CHARTS, begin: int = 0) -> dict[str, Any]:
    """The columns from row `begin` on, thinned, with all that stands behind and on them.

    `stride`: steps that a row is the mean of. A reader that has the rows before `begin`, of the same stride and
    `changes`, puts these behind them.
    """
    stride = stride_of(journal)
    first = begin * stride
    fields = sorted(journal.columns)
    return {
        "stride": stride,
        "changes": journal.changes,
        "begin": begin,
        "num_steps": len(journal.steps),
        "total_steps": journal.total_steps,
        "steps": [rounded(mean) for mean in _means(journal.steps[first:], stride)],
        "columns": {name: [rounded(v) for v in _means(journal.columns[name][first:], stride)] for name in fields},
        "bands": bands_of(journal),
        "decisions": [
            {"step": s.get("step"), "ended": s.get("ended"), "opens": s.get("opens"), "reason": s.get("reason")}
            for s in journal.switches
        ],
        "charts": [asdict(chart) for chart in charts if any(name in journal.columns for name, _ in chart.fields)],
    }


def stride_of(journal: Journal) -> int:
    """Steps that a point of a curve is the mean of."""
    return -(-len(journal.steps) // MAX_POINTS) or 1


def bands_of(journal: Journal) -> list[dict[str, Any]]:
    """Label, first and last step of each stage; neighbours with one label are told apart by their counts of steps."""
    counts = journal.columns.get("step_in_stage") or [None] * len(journal.steps)
    found: list[dict[str, Any]] = []
    rows = list(zip(journal.steps, journal.stages, counts, strict=True))
    for (_, before, count), (step, stage, next_count) in pairwise([(0, None, None), *rows]):
        if stage != before or (next_count or 1) < (count or 0):
            found.append({"label": stage, "first": step, "last": step})
        found[-1]["last"] = step
    return found


def rounded(value: float | None) -> float | None:
    """With DIGITS significant digits, as a whole number where it is one: a page holds many."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(value) if value == int(value) and abs(value) < 1e15 else short


def _means(values: Sequence[float | None], stride: int) -> list[float | None]:
    """One mean for each `stride` values, of those that are known."""
    if stride == 1:
        return list(values)
    found: list[float | None] = []
    for begin in range(0, len(values), stride):
        known = [value for value in values[begin : begin + stride] if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found
