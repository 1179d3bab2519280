"""DAPO: GRPO with a wider upper clip, a loss over tokens, no KL, groups that all agree dropped, and soft overlong.

R = +1 right, -1 otherwise, + max(-1, -(|y| - (L_max - L_cache)) / L_cache)        A = (R - mean R) / (std R + eps)

Source: arXiv 2503.14476 (eq. 8 to 13); verl-recipe, dapo/run_dapo_qwen2.5_32b.sh: +1 / -1, 20480 + 4096, clip .2 / .28,
c = 10, groups of 16, filter on accuracy, token-mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import Normalisation, group_problems, normaliser, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AnyReward, reward_terms
from egrc_mega.methods.shapes import linear_over
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Group, Sample


class DapoSection(StageSection):
    """A stage of DAPO (arXiv 2503.14476)."""

    method: Literal["dapo"] = "dapo"
    """Which method the stage trains with."""
    max_length: PositiveInt = 20480
    """L_max: the generation cap, where the overlong penalty has reached 1."""
    overlong_buffer: PositiveInt = 4096
    """L_cache: tokens before the cap over which the penalty grows."""
    rewards: tuple[AnyReward, ...] = ()
    """Further terms of the reward."""
    advantage_normalisation: Normalisation = "std"
    """`std`: A = (R - mean) / std (GRPO). Groups that hardly differ then weigh as much as any: easy and hard problems
    more than half-solved ones (difficulty bias), and where all are right one token too many costs as much as a wrong
    answer elsewhere. `mean_only`: A = R - mean, in units of the reward (Dr.GRPO)."""
    advantage_min_std: NonNegativeFloat = 0.0
    """Floor under the standard deviation, in units of the reward: smaller differences are not blown up. 0: none."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    rollout: SamplingSection = SamplingSection(n=16, drop_groups="all_right_or_wrong")
    """Sampling of the stage: groups whose answers are all right or all wrong are replaced."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", dual_clip=10.0)
    """A mean over tokens of PPO's ratio, clipped wider upwards."""


class Dapo(Method[DapoSection, NoState]):
    """Accuracy within the group, with a penalty on responses that near the cap."""

    Config = DapoSection
    source = "DAPO, arXiv 2503.14476; verl-recipe dapo/"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards normalised over each group."""
        section = self.section
        normalise = normaliser(section.advantage_normalisation, section.advantage_eps, section.advantage_min_std)
        return over_groups(groups, self._terms, normalise)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        cap, buffer = self.longest, self.section.overlong_buffer
        own = {
            "answer": 1.0 if sample.right else -1.0,
            "overlong": linear_over(sample.length, cap - buffer, buffer, 1.0, -1.0),
        }
        return own | {f"more_{name}": value for name, value in reward_terms(self.section.rewards, sample).items()}

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; the penalty must begin within the cap."""
        yield from group_problems(self.section)
        if self.section.overlong_buffer >= self.longest:
            yield f"overlong_buffer: {self.section.overlong_buffer} is no shorter than the cap {self.longest}; lower it"

    @property
    def longest(self) -> int:
        """The cap in force."""
        return self.section.rollout.max_new_tokens or self.section.max_length
