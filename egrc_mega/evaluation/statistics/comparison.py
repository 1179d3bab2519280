"""The paired comparison of two runs: differences within problems, with intervals and tests."""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from egrc_mega.evaluation.statistics.bootstrap import RESAMPLES, Floats, long_tail, studentised_intervals
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.evaluation.statistics.outcomes import FloatColumn, Outcomes
from egrc_mega.evaluation.statistics.pairing import paired
from egrc_mega.evaluation.statistics.shares import pass_at_1

Bounds = tuple[Floats, Floats]
"""The lower and the upper ends of intervals."""
MAX_ENUMERATED = 14
"""Problems that differ, up to which every assignment of signs is tried."""
NUM_DRAWN = 20_000
"""Assignments of signs that are drawn where there are too many to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first run against the second, which is the reference."""

    num_problems: int
    accuracy_difference: Estimate | None
    """First minus second."""
    accuracy_p: float | None
    """Two-sided, of the hypothesis that within each problem the runs may change places."""
    num_better: int
    """Problems that the first run solved more often."""
    num_worse: int
    length_ratio: Estimate | None
    """Mean length of the first run by that of the second."""
    length_p: float | None


def compared(first: Outcomes, first_label: str, second: Outcomes, second_label: str) -> Comparison:
    """Compare two runs over the same problems.

    Raises:
        DataError: they have not answered the same problems.
    """
    pair = paired(first, first_label, second, second_label)
    right = _known(pair.first_right, pair.second_right)
    length = _known(pair.first_length, pair.second_length)
    differences = right[:, 0] - right[:, 1]
    return Comparison(
        num_problems=len(first.keys),
        accuracy_difference=accuracy_difference(first, second, right) if len(right) else None,
        accuracy_p=sign_flip_p(differences) if len(right) else None,
        num_better=int((differences > 0).sum()),
        num_worse=int((differences < 0).sum()),
        length_ratio=length_ratio(length) if len(length) else None,
        length_p=sign_flip_p(length[:, 0] - length[:, 1]) if len(length) else None,
    )


def _known(first: FloatColumn, second: FloatColumn) -> Floats:
    """[M, 2] The problems of which both runs know something."""
    both = np.stack([first, second], axis=1)
    return both[np.isfinite(both).all(axis=1)]


def accuracy_difference(first: Outcomes, second: Outcomes, right: Floats) -> Estimate | None:
    """The difference of two shares, its interval made of theirs and their correlation (Newcombe 1998, method 10).

    Unlike the plain interval of a mean it has a width also where both runs solved the very same problems.

    Args:
        right: [M, 2] share of right samples of each problem, of both runs.
    """
    shares = [pass_at_1(outcomes) for outcomes in (first, second)]
    if shares[0] is None or shares[1] is None:
        return None
    one, two = (_margins(share.estimate) for share in shares if share)
    low, high = difference_bounds(right, one, two)
    return Estimate(float((right[:, 0] - right[:, 1]).mean()), float(low), float(high))


def _margins(estimate: Estimate) -> Bounds:
    return np.asarray(estimate.value - estimate.low), np.asarray(estimate.high - estimate.value)


def difference_bounds(right: Floats, one: Bounds, two: Bounds) -> Bounds:
    """[...], [...] The ends of the interval of the difference of two shares.

    Args:
        right: [..., M, 2] share of right samples of each problem, of both runs.
        one: [...], [...] how far the interval of the first run's share reaches below and above it.
        two: the same of the second run's.
    """
    spread = right.std(axis=-2).prod(axis=-1)
    covariance = (right - right.mean(axis=-2, keepdims=True)).prod(axis=-1).mean(axis=-1)
    correlation = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0)
    value = (right[..., 0] - right[..., 1]).mean(axis=-1)
    down = _hypotenuse(one[0], two[1], correlation)
    up = _hypotenuse(one[1], two[0], correlation)
    return np.maximum(-1.0, value - down), np.minimum(1.0, value + up)


def _hypotenuse(one: Floats, two: Floats, correlation: Floats) -> Floats:
    return np.sqrt(np.maximum(0.0, one * one - 2 * correlation * one * two + two * two))


def length_ratio(lengths: Floats) -> Estimate:
    """Of the two columns' means; the interval is made of its logarithm, so that it has no negative end."""
    first, second = lengths.mean(axis=0)
    low, high = length_ratio_bounds(lengths[None])
    return Estimate(float(first / second), float(low[0]), float(high[0]))


def length_ratio_bounds(lengths: Floats, resamples: int = RESAMPLES) -> Bounds:
    """[R], [R] The ends of each run's interval.

    Args:
        lengths: [R, M, 2] mean length of each problem's responses, of both runs.
    """
    tail = long_tail(lengths.shape[1])
    low, high = studentised_intervals(lengths, _log_ratio, resamples=resamples, tail=tail)
    return np.exp(low), np.exp(high)


def _log_ratio(means: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(means[..., 0]) - np.log(means[..., 1])


def sign_flip_p(differences: FloatColumn, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: how often random signs give a sum as far from 0.

    Where all differences that are not 0 have one size, as with one sample a problem, it is McNemar's exact test.
    """
    moved = differences[np.abs(differences) > 1e-12]
    if not len(moved):
        return 1.0
    sizes = np.abs(moved)
    if np.ptp(sizes) < 1e-12:
        return mcnemar_p(int((moved > 0).sum()), int((moved < 0).sum()))
    # sums that are equal but for rounding are equal
    bound = abs(moved.sum()) - 1e-9 * sizes.sum()
    if len(moved) <= MAX_ENUMERATED:
        return float((np.abs(_all_signs(len(moved)) @ sizes) >= bound).mean())
    rng = np.random.default_rng(seed)
    num_far = sum(
        int((np.abs(rng.choice((-1.0, 1.0), size=(1000, len(moved))) @ sizes) >= bound).sum())
        for _ in range(NUM_DRAWN // 1000)
    )
    return (num_far + 1) / (NUM_DRAWN + 1)


@lru_cache(maxsize=MAX_ENUMERATED)
def _all_signs(num: int) -> Floats:
    """[2**num, num] Every assignment of signs."""
    return np.asarray(list(product((-1.0, 1.0), repeat=num)))


def mcnemar_p(num_better: int, num_worse: int) -> float:
    """McNemar's exact two-sided p: twice the smaller tail of Binomial(n, 1/2), at most 1."""
    num, fewer = num_better + num_worse, min(num_better, num_worse)
    tail = sum(math.comb(num, i) for i in range(fewer + 1)) / 2**num
    return min(1.0, 2 * tail)
