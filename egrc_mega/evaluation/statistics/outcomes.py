"""What one benchmark's responses came to: an array a field, so that a million of them are a few megabytes.

R: responses. M: problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatColumn = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The responses to the problems of one benchmark, in any order; a problem may have any number of them."""

    problem: NDArray[np.int64]
    """[R] Number of the problem in `keys`."""
    right: FloatColumn
    """[R] 1 right, 0 wrong, NaN ungraded."""
    length: FloatColumn
    """[R] In the unit of the evaluation, tokens if it can be had; NaN where nobody knows."""
    keys: tuple[str, ...]
    """[M] The problems' identities: two runs are paired by them."""

    @classmethod
    def of(cls, keys: Sequence[str], right: Sequence[float | None], length: Sequence[float | None]) -> "Outcomes":
        """From one entry a response: its problem's identity, its verdict and its length; None: not known."""
        names = tuple(dict.fromkeys(keys))
        numbers = {name: number for number, name in enumerate(names)}
        return cls(
            np.fromiter((numbers[key] for key in keys), np.int64, len(keys)),
            np.asarray([np.nan if value is None else value for value in right], np.float64),
            np.asarray([np.nan if value is None else value for value in length], np.float64),
            names,
        )

    def __len__(self) -> int:
        return len(self.problem)

    @cached_property
    def counts(self) -> FloatColumn:
        """[M] Responses to each problem."""
        return np.bincount(self.problem, minlength=len(self.keys)).astype(np.float64)

    @property
    def num_graded(self) -> int:
        """Responses with a verdict."""
        return int(np.isfinite(self.right).sum())

    @property
    def samples_per_problem(self) -> tuple[int, int]:
        """The fewest and the most responses that a problem has."""
        return int(self.counts.min()), int(self.counts.max())

    def mean_by_problem(self, values: FloatColumn) -> FloatColumn:
        """[M] Mean of [R] values over each problem's responses, NaN values left out; NaN where none is left."""
        known = np.isfinite(values)
        sums = np.bincount(self.problem[known], values[known], minlength=len(self.keys))
        counts = np.bincount(self.problem[known], minlength=len(self.keys))
        return np.divide(sums, counts, out=np.full(len(self.keys), np.nan), where=counts > 0)

    def in_order(self, keys: Sequence[str]) -> "Outcomes":
        """The same responses with the problems numbered as in `keys`, which are the same problems in another order."""
        places = {key: place for place, key in enumerate(keys)}
        assert places.keys() == set(self.keys)
        numbers = np.asarray([places[key] for key in self.keys], np.int64)
        return Outcomes(numbers[self.problem], self.right, self.length, tuple(keys))
