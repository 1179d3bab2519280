"""REINFORCE++: advantages normalised over the whole batch, token by token, after a baseline that is the group's mean.

R = 1 if right, else 0        a = R - mean R of the group (`baseline: group`) or R (`baseline: none`)
A = (a - mean a) / sqrt(var a + 1e-8), both over all tokens of the batch, var unbiased

Where all responses of a group agree, a is 0 and A is what the batch's mean makes of it. The KL term of the form without
a baseline stands in the reward, token by token (`reward_kl_coef`); that of the form with one is the loss's
(`loss.kl_coef`).

Source: arXiv 2501.03262 (REINFORCE++ and REINFORCE++-baseline); verl, core_algos.py,
compute_reinforce_plus_plus_baseline_outcome_advantage, and torch_functional.py, masked_whiten.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import PositiveFloat

from egrc_mega.methods.method import NoState
from egrc_mega.methods.normalise import centred, group_problems, itself, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AccuracySection, AnyReward, reward_terms
from egrc_mega.methods.reward_kl import PaysKl, RewardKlKind, RewardKlSection
from egrc_mega.methods.whitening import whitened_over_tokens
from egrc_mega.sections.stage import LossSection
from egrc_mega.types import Group, Sample


class ReinforcePpSection(RewardKlSection):
    """A stage of REINFORCE++ (arXiv 2501.03262)."""

    method: Literal["reinforce_pp"] = "reinforce_pp"
    """Which method the stage trains with."""
    baseline: Literal["group", "none"] = "group"
    """What is taken off the reward before it is normalised over the batch: the group's mean, or nothing."""
    rewards: tuple[AnyReward, ...] = (AccuracySection(),)
    """Terms of the reward; 1 for a right answer and 0 otherwise if nothing else is said."""
    reward_kl_kind: RewardKlKind = "token"
    """token: each token pays for itself and those after it, before the whitening. sum: the whole response does, before
    the baseline."""
    whitening_eps: PositiveFloat = 1e-8
    """Added to the variance over the batch's tokens."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", eps_clip_high=0.2)
    """A mean over tokens of PPO's clipped ratio."""


class ReinforcePp(PaysKl[ReinforcePpSection, NoState]):
    """Accuracy, normalised over the batch."""

    Config = ReinforcePpSection
    source = "REINFORCE++, arXiv 2501.03262; verl core_algos.py"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the baseline, whitened over the batch's tokens."""
        section = self.section
        baseline = centred if section.baseline == "group" else itself
        rows = self.with_kl_of_tokens(groups, over_groups(groups, self._terms, baseline))
        return whitened_over_tokens(groups, rows, section.whitening_eps)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        return {**reward_terms(self.section.rewards, sample), **self.kl_of_response(sample)}

    def problems(self) -> Iterator[str]:
        """A group's mean needs more than one sample."""
        if self.section.baseline == "group":
            yield from group_problems(self.section)
