"""Shares of problems solved: pass@1 over n samples with errors clustered by problem, and pass@k.

All samples of a problem share its difficulty, so n times as many samples are not n times as much evidence. Problems
count alike, however many samples they have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egrc_mega.evaluation.statistics.bootstrap import Floats
from egrc_mega.evaluation.statistics.intervals import Z95, Estimate, wilson_bounds
from egrc_mega.evaluation.statistics.outcomes import FloatColumn, Outcomes
from egrc_mega.evaluation.statistics.student_t import t_quantile


@dataclass(frozen=True, slots=True)
class Share:
    """A share over problems, with its 95 % interval and two standard errors."""

    estimate: Estimate
    clustered_error: float | None
    """Standard error where other problems of the kind might have been asked; None for a single problem."""
    sampling_error: float | None
    """Standard error where the same problems are sampled again; None with one sample a problem."""


def pass_at_1(outcomes: Outcomes) -> Share | None:
    """The mean over problems of the share of right samples; None when nothing was graded."""
    return share_of(outcomes, outcomes.right)


def share_of(outcomes: Outcomes, passed: FloatColumn) -> Share | None:
    """The mean over problems of the share of samples that passed; None when nobody knows of any.

    Args:
        passed: [R] 1, 0 or NaN.
    """
    known = np.isfinite(passed)
    counts = np.bincount(outcomes.problem[known], minlength=len(outcomes.keys)).astype(np.float64)
    means = outcomes.mean_by_problem(passed)[counts > 0]
    counts = counts[counts > 0]
    if not len(means):
        return None
    return Share(_interval(means, int(known.sum())), _clustered_error(means), _sampling_error(means, counts))


def _clustered_error(means: FloatColumn) -> float | None:
    """Of the mean of M problems' means."""
    return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None


def _sampling_error(means: FloatColumn, counts: FloatColumn) -> float | None:
    """From the spread within problems; needs two samples of each."""
    if counts.min() < 2:
        return None
    return float(np.sqrt((means * (1 - means) / (counts - 1)).sum()) / len(means))


def _interval(means: FloatColumn, num_samples: int) -> Estimate:
    low, high = share_bounds(means, num_samples)
    return Estimate(float(means.mean()), float(low), float(high))


def share_bounds(means: Floats, num_samples: int) -> tuple[Floats, Floats]:
    """[...], [...] Wilson's interval of the mean over problems, for as many independent samples as its clustered error
    is worth (Korn and Graubard 1998).

    Args:
        means: [..., M] share of each problem's samples that passed.
        num_samples: of all problems together.
    """
    value, num = means.mean(axis=-1), means.shape[-1]
    if num_samples == num:
        return wilson_bounds(value, num)
    variance = means.var(axis=-1, ddof=1) / num if num > 1 else np.zeros_like(value)
    alike = np.where((value == 0) | (value == 1), float(num), float(num_samples))
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = np.where(variance > 0, value * (1 - value) / variance, alike)
    return wilson_bounds(value, np.minimum(worth, num_samples), t_quantile(num - 1) if num > 1 else Z95)


def pass_at_k(outcomes: Outcomes, k: int) -> Share | None:
    """The chance that one of k samples is right, estimated without bias from n >= k (Chen et al. 2021, 2107.03374).

    None where a problem has fewer than k graded samples.
    """
    graded = np.isfinite(outcomes.right)
    num = np.bincount(outcomes.problem[graded], minlength=len(outcomes.keys))
    num_right = np.bincount(outcomes.problem[graded], outcomes.right[graded], minlength=len(outcomes.keys))
    if num.min(initial=k) < k or not len(num):
        return None
    pairs, places = np.unique(np.stack([num, num_right]).astype(np.int64), axis=1, return_inverse=True)
    means = np.asarray([unbiased_pass_at_k(int(n), int(c), k) for n, c in pairs.T])[places.ravel()]
    return Share(_interval(means, int(num.sum())), _clustered_error(means), None)


def unbiased_pass_at_k(num: int, num_right: int, k: int) -> float:
    """The share of the subsets of k of `num` samples that hold a right one: 1 - C(n - c, k) / C(n, k)."""
    return 1.0 - math.comb(num - num_right, k) / math.comb(num, k)


def ks_of(outcomes: Outcomes) -> Sequence[int]:
    """The powers of two, from 2 on, for which pass@k can be had."""
    fewest = outcomes.samples_per_problem[0]
    return [2**power for power in range(1, 20) if 2**power <= fewest]
