"""Length targets that pay a right answer which keeps to them, one for each level of difficulty (Laser-D, -DE).

A level's target is the shortest of lower, lower + 1024, ... cap with int(coverage x need) >= 1. Coverage is the share
of the level's responses that keep to it; need is int(2/3 n), int(1/3 n) and 1 for high, medium and low accuracy.
Where there is none below it, the target is the longest response of the batch. Targets are chosen anew every so many
steps. The authors measure coverage on 500 problems kept apart; here it is the batch's own, for a stage has no further
problems.

Source: arXiv 2505.15612; hkust-nlp/Laser c9e7c4e, length_penalty.py, ray_trainer.py (the monitor's levels, up to 1/3
and up to 2/3, differ from the reward's, from 1/3 and from 2/3; the monitor's accuracy ignores the format).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method, is_graded
from egrc_mega.methods.normalise import group_problems, within_groups, z_score
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Group, Sample

LEVELS = ("low", "medium", "high")
STEP = 1024
"""Tokens from one candidate to the next."""


def verdict(sample: Sample) -> float:
    """1 right, -1/2 wrong, -1 ill formed."""
    if not sample.well_formed:
        return -1.0
    return 1.0 if sample.right else -0.5


class TargetsSection(StageSection):
    """A stage with a length target for each level of difficulty."""

    bonus: float = 0.5
    """What keeping to the target pays."""
    lower: PositiveInt = 1024
    """Smallest target, in tokens; the authors have 1024, 2048 and 4096."""
    cap: PositiveInt = 16384
    """Largest target, and the generation cap where the sampling names none."""
    every: PositiveInt = 20
    """Steps between choices of the targets."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    rollout: SamplingSection = SamplingSection(n=8, temperature=0.6)
    """Sampling of the stage."""
    loss: LossSection = LossSection(ratio="token")
    """Reduction of the loss."""


class TargetsState(Section):
    """The targets in force."""

    targets: tuple[float, float, float] | None = None
    """Of low, medium and high accuracy; None: not chosen yet."""


C = TypeVar("C", bound=TargetsSection)


class Targets(Method[C, TargetsState], Generic[C]):
    """Keeps the targets; what a response is worth beside its verdict is a method's own."""

    State = TargetsState

    def extra(self, sample: Sample, target: float) -> float:
        """What the length adds to a verdict."""
        raise NotImplementedError

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards normalised over each group."""
        targets = self.targets(groups, view)
        return within_groups(groups, lambda samples: self._terms(samples, targets), z_score(self.section.advantage_eps))

    def _terms(self, samples: Sequence[Sample], targets: Sequence[float]) -> list[Mapping[str, float]]:
        accuracy = sum(verdict(sample) == 1.0 for sample in samples) / len(samples)
        target = targets[(accuracy >= 1 / 3) + (accuracy >= 2 / 3)]
        return [{"answer": verdict(sample), "length": self.extra(sample, target)} for sample in samples]

    def targets(self, groups: Sequence[Group], view: View) -> tuple[float, float, float]:
        """The targets of a step: those in force, or at their turn new ones."""
        if view.state.targets is None or view.step % self.section.every == 0:
            return self._chosen(groups)
        in_force: tuple[float, float, float] = view.state.targets
        return in_force

    def _chosen(self, groups: Sequence[Group]) -> tuple[float, float, float]:
        lengths: list[list[int]] = [[], [], []]
        for group in groups:
            judged = [sample.length for sample in group.samples if is_graded(sample)]
            lengths[(group.accuracy > 1 / 3) + (group.accuracy > 2 / 3)] += judged
        longest = max((n for own in lengths for n in own), default=0)
        n = self.section.rollout.n
        low, medium, high = (
            self._target(own, need, longest) for own, need in zip(lengths, (1, int(n / 3), int(n * 2 / 3)), strict=True)
        )
        return low, medium, high

    def _target(self, lengths: Sequence[int], need: int, longest: int) -> float:
        for target in range(self.section.lower, min(self.section.cap + 1, longest), STEP):
            if lengths and int(sum(n <= target for n in lengths) / len(lengths) * need) >= 1:
                return float(target)
        return float(longest)

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """The targets in force."""
        return {f"target_{level}": t for level, t in zip(LEVELS, self.targets(groups, view), strict=True)}

    def after_step(self, view: View, record: Mapping[str, Any]) -> TargetsState:
        """The targets of this step stay."""
        low, medium, high = (float(record[f"method_target_{level}"]) for level in LEVELS)
        return TargetsState(targets=(low, medium, high))

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; there must be a target."""
        yield from group_problems(self.section)
        if self.section.lower > self.section.cap:
            yield f"lower: {self.section.lower} is beyond the largest target, cap: {self.section.cap}; lower it"

    @property
    def longest(self) -> int:
        """The cap in force."""
        return self.section.rollout.max_new_tokens or self.section.cap
