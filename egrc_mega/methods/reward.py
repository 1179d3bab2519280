"""Rewards as named terms: methods that sum terms take any of them by name, built in or from a plugin."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveInt

from egrc_mega.methods.shapes import linear_over
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import OneOf, Registry
from egrc_mega.types import Sample


class RewardSection(Section):
    """One term of a reward. Each kind adds fields of its own."""

    reward: str
    """Which term."""
    weight: float = 1.0
    """The term is multiplied by this."""


REWARDS: Registry["Reward"] = Registry("reward")
"""Every reward term in use, by the name that its section gives it."""


class Reward(ABC):
    """A pure function of a sample."""

    Config: ClassVar[type[RewardSection]]

    def __init_subclass__(cls) -> None:
        if "Config" in cls.__dict__:
            REWARDS.add(cls)

    def __init__(self, section: Any) -> None:
        self.section = section

    @abstractmethod
    def __call__(self, sample: Sample) -> float:
        """The term, before its weight."""


class AccuracySection(RewardSection):
    """1 for a right and finished response."""

    reward: Literal["accuracy"] = "accuracy"
    """Which term."""
    wrong: float = 0.0
    """What any other response gets."""


class Accuracy(Reward):
    """The term that `AccuracySection` describes."""

    Config = AccuracySection

    def __call__(self, sample: Sample) -> float:
        return 1.0 if sample.right else float(self.section.wrong)


class FormatSection(RewardSection):
    """1 for a well-formed, finished response."""

    reward: Literal["format"] = "format"
    """Which term."""


class Format(Reward):
    """The term that `FormatSection` describes."""

    Config = FormatSection

    def __call__(self, sample: Sample) -> float:
        return float(sample.well_formed)


class OverlongSection(RewardSection):
    """DAPO's soft overlong penalty (eq. 13): 0 up to `start`, then falling to -1 over `buffer` tokens."""

    reward: Literal["overlong"] = "overlong"
    """Which term."""
    start: PositiveInt
    """Tokens of a response that cost nothing."""
    buffer: PositiveInt
    """Tokens over which the penalty grows to 1."""
    floor: NonNegativeFloat = 1.0
    """The penalty is never more than this."""


class Overlong(Reward):
    """The term that `OverlongSection` describes."""

    Config = OverlongSection

    def __call__(self, sample: Sample) -> float:
        section: OverlongSection = self.section
        return linear_over(sample.length, section.start, section.buffer, 1.0, -section.floor)


AnyReward = Annotated[RewardSection, OneOf(REWARDS)]
"""The type of a field that holds any term's section."""


def reward_terms(sections: Sequence[RewardSection], sample: Sample) -> Mapping[str, float]:
    """Each term of a sample after its weight, by name; terms of one kind are added up."""
    terms: dict[str, float] = {}
    for section in sections:
        value = section.weight * REWARDS[section.reward](section)(sample)
        terms[section.reward] = terms.get(section.reward, 0.0) + value
    return terms
