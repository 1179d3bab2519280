"""RLOO: REINFORCE whose baseline is the mean reward of the other responses of the group.

R = 1 if right, else 0        A = R - (mean R of the others) = (R - mean R) n / (n - 1)

The gradient is that of a whole response's log-prob: the loss is a sum over its tokens, and a mean over responses. A KL
term stands in the reward (`reward_kl_coef`).

Source: arXiv 2402.14740 (section 2.3); verl, core_algos.py, compute_rloo_outcome_advantage.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from egrc_mega.methods.method import NoState
from egrc_mega.methods.normalise import group_problems, leave_one_out, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AccuracySection, AnyReward, reward_terms
from egrc_mega.methods.reward_kl import PaysKl, RewardKlSection
from egrc_mega.sections.stage import LossSection
from egrc_mega.types import Group, Sample


class RlooSection(RewardKlSection):
    """A stage of RLOO (arXiv 2402.14740)."""

    method: Literal["rloo"] = "rloo"
    """Which method the stage trains with."""
    rewards: tuple[AnyReward, ...] = (AccuracySection(),)
    """Terms of the reward; 1 for a right answer and 0 otherwise if nothing else is said."""
    loss: LossSection = LossSection(agg="seq-mean-token-sum", ratio="none")
    """The log-prob of a response is a sum over its tokens; no ratio, for it is strictly on-policy."""


class Rloo(PaysKl[RlooSection, NoState]):
    """Accuracy against the other responses."""

    Config = RlooSection
    source = "RLOO, arXiv 2402.14740; verl core_algos.py"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the mean of the others."""
        return self.with_kl_of_tokens(groups, over_groups(groups, self._terms, leave_one_out))

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        return {**reward_terms(self.section.rewards, sample), **self.kl_of_response(sample)}

    def problems(self) -> Iterator[str]:
        """There must be others."""
        yield from group_problems(self.section)
