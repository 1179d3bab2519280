"""Demystifying long CoT: right is better short, wrong is better long, by a cosine of the length; repeating costs.

R = lo + (hi - lo) / 2 (1 + cos(pi |y| / L_max)), (lo, hi) = right (1, 2), wrong (0, -10); -10 if |y| + 16 >= L_max
A_t = (R - mean R) / (std R + eps) + sum over k >= t of .99^(k - t) p_k, p_k = -.05 in a run of 40 tokens seen before

The source trains with PPO, a critic and GAE (gamma 1, and .99 for the tokens' penalty). This stack has no critic: the
group is the baseline, and the discounted penalty to come is added to the advantage of each token.

Source: arXiv 2502.03373; eddycmu/demystify-long-cot e90cf9b, cosine.py, repetition.py, common.py, run_local.sh.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, NonPositiveFloat, PositiveInt

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState, is_graded
from egrc_mega.methods.normalise import each_sample
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.repeats import repeated_tokens
from egrc_mega.sections.stage import SamplingSection
from egrc_mega.types import Group, Sample


class CosineSection(ComparingSection):
    """The cosine reward with its penalty on tokens that repeat (arXiv 2502.03373)."""

    method: Literal["cosine"] = "cosine"
    """Which method the stage trains with."""
    right: tuple[float, float] = (2.0, 1.0)
    """Reward of a right answer, of no length and at the cap."""
    wrong: tuple[float, float] = (-10.0, 0.0)
    """The same of a wrong one."""
    exceed: float = -10.0
    """Reward of a response that comes within `margin` tokens of the cap, right or wrong."""
    margin: NonNegativeInt = 16
    """Tokens before the cap."""
    repeat_penalty: NonPositiveFloat = -0.05
    """What a token of a repeated run costs; 0: nothing."""
    repeat_ngram: PositiveInt = 40
    """Tokens of a run."""
    repeat_gamma: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount of penalties to come."""
    rollout: SamplingSection = SamplingSection(n=8, max_new_tokens=14336)
    """Sampling of the stage; its cap is L_max."""


class Cosine(Comparing[CosineSection, NoState]):
    """The cosine pays by response, the penalty by token."""

    Config = CosineSection
    source = "Demystifying long CoT, arXiv 2502.03373; eddycmu/demystify-long-cot"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """The cosine of each response."""
        return [{"answer": self._cosine(sample)} for sample in samples]

    def _cosine(self, sample: Sample) -> float:
        cap = sample.ask.max_new_tokens or self.longest
        if sample.length + self.section.margin >= cap:
            return self.section.exceed
        short, long = self.section.right if sample.right else self.section.wrong
        return long + (short - long) / 2 * (1 + math.cos(math.pi * sample.length / cap))

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """The cosine normalised over each group, less each token's repetitions to come."""
        return each_sample(groups, super().credit(groups, view), self._dense)

    def _dense(self, credit: Credit, sample: Sample) -> Credit:
        repeated = repeated_tokens(sample.completion.output_ids, self.section.repeat_ngram)
        if not (is_graded(sample) and self.section.repeat_penalty and repeated.any()):
            return credit
        to_come, values = 0.0, np.full(sample.length, float(credit.advantage), np.float64)
        for t in range(sample.length - 1, -1, -1):
            to_come = self.section.repeat_penalty * repeated[t] + self.section.repeat_gamma * to_come
            values[t] += to_come
        return replace(credit, advantage=values, kept=True)
