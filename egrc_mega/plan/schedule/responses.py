"""Lengths of responses as published runs have them: log-normal, cut off at a cap, and the same for whoever asks."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Responses:
    """Lengths, in tokens, as a function of the problem's place in the run and of nothing else."""

    mean: float
    """Before the cap, which takes less than one hundredth of it at a sigma of 0.8 and eight times the mean."""
    sigma: float = 0.8
    """Standard deviation of the logarithm."""
    cap_ratio: float = 8.0
    """The cap is so many times the mean."""
    group_share: float = 0.0
    """Share of the logarithm's variance that the responses to one problem have in common: hard ones are long."""
    seed: int = 1

    @property
    def cap(self) -> int:
        """Where responses end, in tokens."""
        return int(self.cap_ratio * self.mean)

    def of(self, place: int, count: int, attempt: int = 0) -> NDArray[np.int64]:
        """The lengths of a problem's responses, each at least one token; other ones for each attempt.

        Returns:
            int64[count].
        """
        shared = np.random.default_rng((self.seed, place)).standard_normal()
        own = np.random.default_rng((self.seed, place, 1 + attempt)).standard_normal(count)
        normal = math.sqrt(self.group_share) * shared + math.sqrt(1 - self.group_share) * own
        lengths = self.mean * np.exp(self.sigma * normal - self.sigma**2 / 2)
        return np.clip(np.ceil(lengths), 1, self.cap).astype(np.int64)
