"""What is assumed of the lengths of responses when only their mean and their cap are known.

Of all distributions between nothing and the cap with that mean the one of largest entropy: an exponential that is cut
off at the cap. It falls where the mean is below half of the cap, and rises where most responses run into it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lengths:
    """Lengths of responses, in tokens."""

    mean: float
    cap: int

    def __post_init__(self) -> None:
        assert 0 < self.mean < self.cap, f"a mean of {self.mean} below a cap of {self.cap}"

    def quantiles(self, count: int) -> NDArray[np.float64]:
        """As many lengths that stand for equally likely parts of the distribution, ascending."""
        share = self.mean / self.cap
        below = (np.arange(count) + 0.5) / count
        if share > 0.5:
            # the rising distribution is the falling one, looked at from the cap
            return self.cap * (1 - _falling(1 - share, below))[::-1]
        return self.cap * _falling(share, below)

    @cached_property
    def mean_square(self) -> float:
        """Mean of the squares: what attention costs."""
        return float(np.mean(self.quantiles(4096) ** 2))


def _falling(mean: float, below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places between 0 and 1 below which so much of the distribution with that mean, of at most a half, lies."""
    rate = _rate(mean)
    if rate < 1e-6:
        return below
    places: NDArray[np.float64] = -np.log1p(below * math.expm1(-rate)) / rate
    return places


def _rate(mean: float) -> float:
    """The rate of a falling exponential on [0, 1], cut off at 1, with this mean: by bisection."""
    low, high = 0.0, 2 / mean
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(middle) > mean else (low, middle)
    return (low + high) / 2


def _mean(rate: float) -> float:
    if rate < 1e-6:
        return 0.5 - rate / 12
    return 1 / rate - math.exp(-rate) / -math.expm1(-rate)
