"""L1-Exact (LCPO): right, and as long as the prompt says.

R = c - alpha |n - |y||        n ~ U{100 ... 4000}, stated in the prompt        A = (R - mean R) / (std R + eps)

Source: arXiv 2503.04697; cmu-l3/l1, math_reward.py, deepscaler_dataset.py, run_l1_exact.sh: alpha 3e-4, groups of 16,
temperature .6, KL .001, cap 4096, from a model that has been trained on long answers.
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


class L1ExactSection(ComparingSection):
    """L1-Exact (arXiv 2503.04697): responses as long as their prompt says."""

    method: Literal["l1_exact"] = "l1_exact"
    """Which method the stage trains with."""
    alpha: NonNegativeFloat = 3e-4
    """What a token more or less than the budget costs."""
    budget: tuple[PositiveInt, PositiveInt] = (100, 4000)
    """Smallest and largest budget, in tokens."""
    words: str = " Think for {n} tokens."
    """How the prompt states the budget, `{n}` replaced."""
    rollout: SamplingSection = SamplingSection(n=16, temperature=0.6, max_new_tokens=4096)
    """Sampling of the stage."""


class L1Exact(Comparing[L1ExactSection, NoState]):
    """The distance to the budget costs, of wrong answers too."""

    Config = L1ExactSection
    source = "L1, arXiv 2503.04697; cmu-l3/l1"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """One budget for the whole group."""
        return asks_with_budget(problem, view, self.section.words, self.section.budget, self.section.rollout.n)

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy, and the price of the distance."""
        alpha = self.section.alpha
        return [{"answer": float(s.right), "length": -alpha * abs(budget_of(s) - s.length)} for s in samples]

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; budgets go from small to large."""
        yield from super().problems()
        if self.section.budget[0] > self.section.budget[1]:
            yield f"budget: {list(self.section.budget)} has its largest first; give the smallest first"
