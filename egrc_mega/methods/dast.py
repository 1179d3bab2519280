"""DAST, on-policy: a length budget that grows with a problem's difficulty; right below it and wrong above it pay.

p = share of right responses        budget = p (mean length of the right ones) + (1 - p) L_max
lambda = (|y| - budget) / budget    R = max(-.5 lambda + .5, .1) if right, min(.9 lambda - .1, -.1) if wrong
A = (R - mean R) / (std R + eps)

The paper ranks the reference model's responses by R and learns from pairs of them (SimPO), which needs a preference
trainer: only R is here. L_max is the longest response of the group, as in the one public implementation.

Source: arXiv 2503.04472 (v2, EMNLP 2025); lll6gg/UI-R1 2fe9bf0, trainer/DAST_grpo_trainer.py: 560-594.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from pydantic import PositiveInt

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.types import Sample


class DastSection(ComparingSection):
    """A stage with DAST's reward (arXiv 2503.04472)."""

    method: Literal["dast"] = "dast"
    """Which method the stage trains with."""
    max_length: PositiveInt | None = None
    """L_max, the budget of a problem that nobody solves, in tokens; None: the longest response of the group."""


class Dast(Comparing[DastSection, NoState]):
    """Length against a budget that follows from the group's accuracy."""

    Config = DastSection
    source = "DAST, arXiv 2503.04472; lll6gg/UI-R1"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """One term, which holds accuracy and length."""
        right = [sample.length for sample in samples if sample.right]
        longest = self.section.max_length or max(sample.length for sample in samples)
        share = len(right) / len(samples)
        budget = share * (fmean(right) if right else 0.0) + (1 - share) * longest
        return [{"budget": _score((s.length - budget) / budget, s.right)} for s in samples]


def _score(excess: float, right: bool) -> float:
    return max(-0.5 * excess + 0.5, 0.1) if right else min(0.9 * excess - 0.1, -0.1)
