"""What is assumed of the lengths of responses when only their mean and their cap are known.

Of all distributions between nothing and the cap with that mean the one of largest entropy: an exponential that is cut
off at the cap. It falls where the mean is below half of the cap, and rises where most responses run into it.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lengths:
    """Lengths of responses, in tokens."""

    mean: float
    cap: int
    _rate: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert 0 < self.mean < self.cap, f"a mean of {self.mean} below a cap of {self.cap}"
        object.__setattr__(self, "_rate", _rate(self.mean / self.cap))

    def share_longer(self, tokens: float) -> float:
        """Share of the responses that are longer."""
        place = min(max(tokens / self.cap, 0.0), 1.0)
        if abs(self._rate) < 1e-9:
            return 1 - place
        return (math.exp(-self._rate * place) - math.exp(-self._rate)) / (1 - math.exp(-self._rate))

    def quantiles(self, count: int) -> NDArray[np.float64]:
        """As many lengths that stand for equally likely parts of the distribution, ascending."""
        below = (np.arange(count) + 0.5) / count
        if abs(self._rate) < 1e-9:
            return self.cap * below
        places: NDArray[np.float64] = -np.log1p(-below * -math.expm1(-self._rate)) / self._rate
        return self.cap * places

    @cached_property
    def mean_square(self) -> float:
        """Mean of the squares: what attention costs."""
        return float(np.mean(self.quantiles(4096) ** 2))


def _rate(mean: float) -> float:
    """The rate of an exponential on [0, 1], cut off at 1, with this mean: by bisection."""
    low, high = -700.0, 700.0
    for _ in range(200):
        middle = (low + high) / 2
        if _mean(middle) > mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _mean(rate: float) -> float:
    if abs(rate) < 1e-6:
        return 0.5 - rate / 12
    return 1 / rate - 1 / math.expm1(rate)
