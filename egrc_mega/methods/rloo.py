"""RLOO: REINFORCE whose baseline is the mean reward of the other responses of the group.

R = 1 if right, else 0        A = R - (mean R of the others) = (R - mean R) n / (n - 1)

The paper's gradient is that of a whole response's log-prob, a sum over its tokens; here it is a mean over all tokens of
the batch, which weighs them alike. Its KL term stands in the reward; here it is one of the loss (`loss.kl_coef`).

Source: arXiv 2402.14740 (section 2.3); verl, core_algos.py, compute_rloo_outcome_advantage.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import group_problems, leave_one_out, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AccuracySection, AnyReward, reward_terms
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group


class RlooSection(StageSection):
    """A stage of RLOO (arXiv 2402.14740)."""

    method: Literal["rloo"] = "rloo"
    """Which method the stage trains with."""
    rewards: tuple[AnyReward, ...] = (AccuracySection(),)
    """Terms of the reward; 1 for a right answer and 0 otherwise if nothing else is said."""
    loss: LossSection = LossSection(agg="token-mean", ratio="none")
    """All tokens of the batch weigh the same; no ratio, for it is strictly on-policy."""


class Rloo(Method[RlooSection, NoState]):
    """Accuracy against the other responses."""

    Config = RlooSection
    source = "RLOO, arXiv 2402.14740; verl core_algos.py"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the mean of the others."""
        return over_groups(groups, lambda sample: reward_terms(self.section.rewards, sample), leave_one_out)

    def problems(self) -> Iterator[str]:
        """There must be others."""
        yield from group_problems(self.section)
