"""A KL term inside the reward: what a response pays for having left the model that the run began with.

k1_t = log pi(y_t) - log ref(y_t) of each token that the policy sampled, pi as it was before the batch's first update

sum:    R' = R - coef (sum over t of k1_t), before the method compares rewards                       RLOO, verl
token:  A_t = A - coef (sum over s >= t of k1_s), after the baseline and before a whitening          REINFORCE++, PPO

No gradient goes through it: unlike the k1 of `loss.kl_coef`, whose gradient is zero, it moves the policy by what it
pays. `egrc credit` knows no reference model and leaves it out.

Source: arXiv 2402.14740 (RLOO), arXiv 2501.03262 (REINFORCE++, gamma 1); verl, ray_trainer.py, apply_kl_penalty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Generic, Literal, TypeVar

import numpy as np
from pydantic import NonNegativeFloat

from egrc_mega.methods.method import Method, Need
from egrc_mega.methods.normalise import each_sample
from egrc_mega.methods.records import Credit
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection
from egrc_mega.types import Group, Sample

RewardKlKind = Literal["sum", "token"]
"""Whether a response pays at once, or each token for itself and what follows it."""


class RewardKlSection(StageSection):
    """A stage whose reward may hold a KL term."""

    reward_kl_coef: NonNegativeFloat = 0.0
    """What a nat of KL to the model that the run began with costs, in units of the reward; 0 keeps no reference."""
    reward_kl_kind: RewardKlKind = "sum"
    """sum: the response pays for all its tokens, before rewards are compared (RLOO). token: each token pays for itself
    and those after it, once the baseline is off (REINFORCE++, PPO)."""


C = TypeVar("C", bound=RewardKlSection)
S = TypeVar("S", bound=Section)


class PaysKl(Method[C, S], Generic[C, S]):
    """A method whose reward may hold a KL term."""

    @property
    def measures(self) -> frozenset[Need]:
        """The KL is measured where it costs something."""
        return self.needs | ({"reference_kl"} if self.section.reward_kl_coef else set())

    def kl_of_response(self, sample: Sample) -> Mapping[str, float]:
        """The term of the reward of a whole response; none where each token pays, or where nothing was measured."""
        if not self._pays(sample, "sum"):
            return {}
        return {"kl": float(-self._prices(sample).sum())}

    def with_kl_of_tokens(self, groups: Sequence[Group], rows: Sequence[Sequence[Credit]]) -> list[list[Credit]]:
        """Credits less what each token pays for itself and those after it, where it is the tokens that pay."""
        return each_sample(groups, rows, self._paying)

    def _paying(self, credit: Credit, sample: Sample) -> Credit:
        if credit.reward is None or not self._pays(sample, "token"):
            return credit
        prices = self._prices(sample)
        advantage = credit.advantage - prices[::-1].cumsum()[::-1]
        paid = float(prices.sum())
        terms = {**credit.terms, "kl": -paid}
        return replace(
            credit, advantage=advantage, reward=credit.reward - paid, terms=terms, kept=bool(advantage.any())
        )

    def _pays(self, sample: Sample, kind: RewardKlKind) -> bool:
        is_priced = self.section.reward_kl_coef > 0 and self.section.reward_kl_kind == kind
        return is_priced and sample.reference_kl is not None

    def _prices(self, sample: Sample) -> np.ndarray:
        return self.section.reward_kl_coef * np.asarray(sample.reference_kl, np.float64)
