"""Problems by position: what a run sees at any step is a pure function of the seed, so the cursor is one integer."""

import random
from collections.abc import Sequence

from egrc_mega.seeds import derive_seed
from egrc_mega.types import Problem


class ProblemSource:
    """The training problems, epoch after epoch."""

    def __init__(self, problems: Sequence[Problem], *, shuffle: bool, seed: int) -> None:
        self.problems, self.shuffle, self.seed = problems, shuffle, seed
        self._latest: tuple[int, list[int]] = (-1, [])

    def take(self, position: int) -> Problem:
        """Problem number `position` since the start of the run, whatever was taken before."""
        epoch, place = divmod(position, len(self.problems))
        return self.problems[self._order(epoch)[place]]

    def _order(self, epoch: int) -> list[int]:
        if self._latest[0] != epoch:
            order = list(range(len(self.problems)))
            if self.shuffle:
                random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            self._latest = (epoch, order)
        return self._latest[1]
