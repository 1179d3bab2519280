"""DLER: truncation as the only length penalty, and what makes it train: batch-wide advantages, a filter, clip higher.

`paper`: R = 1 if right and finished, else 0          `code`: R = s if finished, else .1 s; s = 1 if the answer is right
a = R - mean R of the group        A = (a - mean a) / sqrt(var a + 1e-8), over all tokens of the batch, var unbiased

In the code an answer inside an unfinished response counts, and the filter asks for s before the factor. Not here: the
authors' DA-DLER (smaller caps for easier problems).

Source: arXiv 2510.15110; NVlabs/DLER ea7d4f7, dler_slurm.sh (cap 4000, groups of 16, clip .2 / .28, KL 5e-4,
stop_properly_penalty .1), core_algos.py: 423-470, torch_functional.py: 188-223 (over tokens, unbiased).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.normalise import centred, group_problems, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.whitening import whitened_over_tokens
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Grade, Group, Sample


class DlerSection(StageSection):
    """A stage of DLER (arXiv 2510.15110)."""

    method: Literal["dler"] = "dler"
    """Which method the stage trains with."""
    variant: Literal["paper", "code"] = "paper"
    """`paper`: what is truncated earns nothing. `code`: it earns a share of what its answer is worth."""
    max_length: PositiveInt = 4000
    """The generation cap, in output tokens."""
    truncated_factor: Annotated[float, Field(ge=0, le=1)] = 0.1
    """That share, in the code's variant."""
    whitening_eps: PositiveFloat = 1e-8
    """Added to the variance over the batch's tokens."""
    rollout: SamplingSection = SamplingSection(n=16, drop_groups="all_right_or_wrong")
    """Sampling of the stage: groups whose answers are all right or all wrong are replaced."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", dual_clip=10.0, kl_coef=5e-4)
    """A mean over tokens of PPO's ratio, clipped wider upwards."""


class Dler(Method[DlerSection, NoState]):
    """Accuracy under a cap."""

    Config = DlerSection
    source = "DLER, arXiv 2510.15110; NVlabs/DLER"

    def keep(self, group: Group, view: View) -> bool:
        """The code's filter counts the answers of truncated responses too."""
        if self.section.variant == "paper" or self.section.rollout.drop_groups != "all_right_or_wrong":
            return super().keep(group, view)
        return len({sample.grade for sample in group.samples if is_graded(sample)}) > 1

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the group's mean, whitened over the batch's tokens."""
        return whitened_over_tokens(groups, over_groups(groups, self._terms, centred), self.section.whitening_eps)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        if self.section.variant == "paper" or not sample.completion.truncated:
            return {"answer": float(sample.right)}
        return {"answer": self.section.truncated_factor * (sample.grade is Grade.RIGHT)}

    def problems(self) -> Iterator[str]:
        """A group's mean needs more than one sample."""
        yield from group_problems(self.section)

    @property
    def longest(self) -> int:
        """The cap in force."""
        return self.section.rollout.max_new_tokens or self.section.max_length
