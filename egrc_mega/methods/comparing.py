"""What methods share that compare the responses of a group: A = (R - mean R) / (std R + eps), and their fields."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from pydantic import NonNegativeFloat, PositiveFloat

from egrc_mega.methods.method import Method
from egrc_mega.methods.normalise import Normalisation, group_problems, normaliser, within_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AccuracySection, AnyReward, reward_terms
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group, Sample


class ComparingSection(StageSection):
    """A stage whose advantages are rewards compared within a group."""

    advantage_normalisation: Normalisation = "std"
    """`std`: A = (R - mean) / std (GRPO). `mean_only`: A = R - mean, in units of the reward (Dr.GRPO)."""
    advantage_min_std: NonNegativeFloat = 0.0
    """Floor under the standard deviation, in units of the reward: smaller differences are not blown up. 0: none."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    loss: LossSection = LossSection(ratio="token", eps_clip_high=0.2)
    """Reduction of the loss."""


class SumSection(ComparingSection):
    """The same, whose reward is a sum of named terms."""

    rewards: tuple[AnyReward, ...] = (AccuracySection(),)
    """Terms of the reward; 1 for a right answer and 0 otherwise if nothing else is said."""


C = TypeVar("C", bound=ComparingSection)
S = TypeVar("S", bound=Section)


class Comparing(Method[C, S], Generic[C, S]):
    """A method that says what the responses of a group are worth; the rest is here."""

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """The named parts of the reward of each graded sample of a group, in order; there is at least one."""
        raise NotImplementedError

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards normalised over each group."""
        section = self.section
        normalise = normaliser(section.advantage_normalisation, section.advantage_eps, section.advantage_min_std)
        return within_groups(groups, lambda samples: self.worth(samples, view), normalise)

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample."""
        yield from group_problems(self.section)


D = TypeVar("D", bound=SumSection)


class Summing(Comparing[D, S], Generic[D, S]):
    """A method whose rewards are a sum of terms that a response has by itself."""

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """The terms of the reward that the section names."""
        return [reward_terms(self.section.rewards, sample) for sample in samples]
