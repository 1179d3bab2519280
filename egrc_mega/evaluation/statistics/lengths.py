"""Mean lengths, of all responses and of right and wrong ones apart, with intervals over problems."""

import numpy as np

from egrc_mega.evaluation.statistics.bootstrap import Floats, long_tail, studentised_interval
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.evaluation.statistics.outcomes import FloatColumn, Outcomes


def mean_length(outcomes: Outcomes) -> Estimate | None:
    """The mean over problems of their responses' mean length; None when no length is known."""
    means = outcomes.mean_by_problem(outcomes.length)
    means = means[np.isfinite(means)]
    if not len(means):
        return None
    return Estimate(float(means.mean()), *studentised_interval(means[:, None], first, tail=long_tail(len(means))))


def mean_length_of_right(outcomes: Outcomes) -> Estimate | None:
    """Over all right responses; None when there is none."""
    return _mean_where(outcomes, outcomes.right == 1)


def mean_length_of_wrong(outcomes: Outcomes) -> Estimate | None:
    """Over all wrong responses; None when there is none."""
    return _mean_where(outcomes, outcomes.right == 0)


def _mean_where(outcomes: Outcomes, chosen: FloatColumn) -> Estimate | None:
    """A ratio of two sums over problems: of the lengths, and of the numbers, of the chosen responses."""
    known = chosen & np.isfinite(outcomes.length)
    if not known.any():
        return None
    num = len(outcomes.keys)
    sums = np.bincount(outcomes.problem[known], outcomes.length[known], minlength=num)
    counts = np.bincount(outcomes.problem[known], minlength=num).astype(np.float64)
    columns = np.stack([sums, counts], axis=1)
    return Estimate(float(ratio(columns.mean(axis=0))), *studentised_interval(columns, ratio, tail=long_tail(num)))


def first(means: Floats) -> Floats:
    """The figure that is the mean of the only column."""
    return means[..., 0]


def ratio(means: Floats) -> Floats:
    """The figure that is the first column's mean by that of the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 0] / means[..., 1]
