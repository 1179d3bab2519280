"""ShorterBetter: the shortest right response of a group says how long all of its responses should be.

best = length of the shortest right response, or the group's mean length where none is right
R = 2 c - .001 | |y| - best |        A = (R - mean R) / (std R + eps)

Source: arXiv 2504.21370; JingyangYi/ShorterBetter 6399366, verl/verl/workers/reward_manager/naive.py: 198-203, 242-252
(the alpha = 1 of its sb_compute_score.py is unused), scripts/train: cap 6000, temperature .9, groups of 8.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from pydantic import NonNegativeFloat

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.types import Sample


class ShorterBetterSection(ComparingSection):
    """A stage of ShorterBetter (arXiv 2504.21370)."""

    method: Literal["shorterbetter"] = "shorterbetter"
    """Which method the stage trains with."""
    alpha: float = 2.0
    """For a right answer."""
    beta: NonNegativeFloat = 1e-3
    """Lost for each token that a response is longer or shorter than the best one."""


class ShorterBetter(Comparing[ShorterBetterSection, NoState]):
    """Accuracy, less the distance to the shortest right length."""

    Config = ShorterBetterSection
    source = "ShorterBetter, arXiv 2504.21370; JingyangYi/ShorterBetter"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy and the distance, which wrong responses lose as well."""
        right = [sample.length for sample in samples if sample.right]
        best = min(right) if right else fmean(sample.length for sample in samples)
        alpha, beta = self.section.alpha, self.section.beta
        return [{"answer": alpha * s.right, "length": -beta * abs(s.length - best)} for s in samples]
