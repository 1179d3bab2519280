"""Intervals at 95 %: of a share that was counted, and of a mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egrc_mega.evaluation.statistics.bootstrap import RESAMPLES, Floats, long_tail, studentised_interval

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Estimate":
        """The same estimate in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def wilson_interval(num_right: float, num: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was counted. `num` need not be an integer."""
    if num == 0:
        return 0.0, 1.0
    low, high = wilson_bounds(num_right / num, num, z)
    return float(low), float(high)


def wilson_bounds(share: Floats | float, num: Floats | float, z: float = Z95) -> tuple[Floats, Floats]:
    """Wilson's interval of each share, counted over `num` > 0 each."""
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % studentised bootstrap interval of the mean; the same for the same seed.

    Lengths have a long tail, of which the plain percentiles of resampled means see too little: with 30 problems they
    hold the truth in 91 of 100 cases.
    """
    columns = np.asarray(values, dtype=np.float64)[:, None]
    return studentised_interval(columns, lambda means: means[..., 0], seed, resamples, long_tail(len(columns)))
