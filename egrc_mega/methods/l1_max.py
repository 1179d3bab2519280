"""L1-Max: right, and no longer than the prompt says.

paper:  R = c clip(alpha (n - |y|) + 1/2, 0, 1)        code:  R = c (clip(alpha (n - |y|), -1, 1) + 1) / 2

These are two methods: the code's slope is half the paper's. A = (R - mean R) / (std R + eps).

Source: arXiv 2503.04697 (eq. 2); cmu-l3/l1 93dd330, math_reward.py (`multiplier_reward`), run_l1_max.sh: groups of 16,
lr 4e-6, cap 4500, from L1-Exact. That script sets none of the flags, so as committed it trains on accuracy alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from egrc_mega.methods.budgets import asks_with_budget, budget_of
from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.sections.stage import SamplingSection
from egrc_mega.types import Ask, Problem, Sample


class L1MaxSection(ComparingSection):
    """L1-Max (arXiv 2503.04697): responses no longer than their prompt says."""

    method: Literal["l1_max"] = "l1_max"
    """Which method the stage trains with."""
    variant: Literal["paper", "code"] = "paper"
    """The formula of the paper, or that of its code, which is half as steep."""
    alpha: NonNegativeFloat = 3e-4
    """Slope, per token."""
    budget: tuple[PositiveInt, PositiveInt] = (100, 4000)
    """Smallest and largest budget, in tokens."""
    words: str = " Think for maximum {n} tokens."
    """How the prompt states the budget, `{n}` replaced."""
    rollout: SamplingSection = SamplingSection(n=16, temperature=0.6, max_new_tokens=4500)
    """Sampling of the stage."""


class L1Max(Comparing[L1MaxSection, NoState]):
    """A right answer pays the more the further it stays below its budget."""

    Config = L1MaxSection
    source = "L1, arXiv 2503.04697; cmu-l3/l1"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """One budget for the whole group."""
        return asks_with_budget(problem, view, self.section.words, self.section.budget, self.section.rollout.n)

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy times what the length leaves of it."""
        return [{"answer": sample.right * self._share(budget_of(sample) - sample.length)} for sample in samples]

    def _share(self, saved: float) -> float:
        rise = self.section.alpha * saved
        if self.section.variant == "code":
            return (min(1.0, max(-1.0, rise)) + 1) / 2
        return min(1.0, max(0.0, rise + 0.5))

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; budgets go from small to large."""
        yield from super().problems()
        if self.section.budget[0] > self.section.budget[1]:
            yield f"budget: {list(self.section.budget)} has its largest first; give the smallest first"
