"""The explore stage (paper 3.4): GRPO on R = R_format + R_answer + R_length.

R_length = max(floor, -slope * max(0, |y| - L) / unit)        A = (R - mean R) / (std R + eps), std unbiased
"""

from collections.abc import Sequence
from statistics import fmean, stdev

from egrc_mega.config.schema import ExploreStage
from egrc_mega.methods.base import Method, is_right
from egrc_mega.types import Grade, Group, Sample


class Explore(Method):
    """Accuracy first; only severe redundancy costs a little."""

    def __init__(self, stage: ExploreStage) -> None:
        super().__init__(stage, stage.max_new_tokens)
        self.loss = stage.loss
        self.terms = stage.reward
        self.clip_len = stage.clip_len
        self.unit = stage.reward.length_unit or stage.clip_len / 4
        self.scope = stage.advantage_scope
        self.eps = stage.advantage_eps

    def reward(self, sample: Sample) -> float:
        """Sum of the three terms; the length term counts for wrong answers too."""
        excess = max(0, sample.length - self.clip_len)
        length = max(self.terms.length_floor, -self.terms.length_slope * excess / self.unit)
        return self.terms.format * sample.well_formed + self.terms.answer * is_right(sample) + length

    def advantages(self, groups: Sequence[Group]) -> list[list[float]]:
        """Rewards normalised over the group (or the batch); ungraded samples take no part in the statistics."""
        if self.scope == "batch":
            batch = [sample for group in groups for sample in group.samples]
            flat = iter(self._normalised(batch))
            return [[next(flat) for _sample in group.samples] for group in groups]
        return [self._normalised(group.samples) for group in groups]

    def _normalised(self, samples: Sequence[Sample]) -> list[float]:
        rewards = [self.reward(sample) for sample in samples if sample.grade is not Grade.UNGRADED]
        if len(rewards) < 2 or max(rewards) == min(rewards):
            return [0.0] * len(samples)
        mean, scale = fmean(rewards), stdev(rewards) + self.eps
        return [0.0 if sample.grade is Grade.UNGRADED else (self.reward(sample) - mean) / scale for sample in samples]
