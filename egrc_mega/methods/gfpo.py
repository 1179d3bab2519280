"""GFPO: of a larger group only the k best responses by a metric are trained on, and compared with each other.

metric: the shortest (`length`), or the most reward a token (`efficiency`)        R = 1 if right, else 0
A = (R - mean R) / (std R + eps) over the k kept ones, 0 for the rest

Of equally good responses the earlier ones are kept.

Source: arXiv 2508.09726 (section 3: 8 of 16 or of 24, 6 of 8); TRL 0a0b612c, experimental/gfpo: eps 1e-4.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from egrc_mega.methods.comparing import Summing, SumSection
from egrc_mega.methods.method import NoState, is_graded
from egrc_mega.methods.records import DROPPED, Credit, View
from egrc_mega.methods.reward import reward_terms
from egrc_mega.types import Group, Sample


class GfpoSection(SumSection):
    """A stage of GFPO (arXiv 2508.09726)."""

    method: Literal["gfpo"] = "gfpo"
    """Which method the stage trains with."""
    metric: Literal["length", "efficiency"] = "length"
    """`length`: the shortest responses are kept. `efficiency`: those with the most reward a token."""
    k: PositiveInt = 4
    """Responses of a group that are trained on."""
    advantage_eps: PositiveFloat = 1e-4
    """Added to the (unbiased) standard deviation."""


class Gfpo(Summing[GfpoSection, NoState]):
    """Accuracy among the shortest."""

    Config = GfpoSection
    source = "GFPO, arXiv 2508.09726; TRL experimental/gfpo"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards compared among the chosen; the others keep their reward and teach nothing."""
        return [self._credits(group, view) for group in groups]

    def _credits(self, group: Group, view: View) -> list[Credit]:
        graded = [i for i, sample in enumerate(group.samples) if is_graded(sample)]
        chosen = sorted(graded, key=lambda i: self._cost(group.samples[i]))[: self.section.k]
        kept = replace(group, samples=tuple(group.samples[i] for i in chosen))
        taught = dict(zip(chosen, super().credit([kept], view)[0], strict=True))
        return [taught[i] if i in taught else self._left_out(sample) for i, sample in enumerate(group.samples)]

    def _cost(self, sample: Sample) -> float:
        if self.section.metric == "length":
            return sample.length
        return -sum(reward_terms(self.section.rewards, sample).values()) / sample.length

    def _left_out(self, sample: Sample) -> Credit:
        if not is_graded(sample):
            return DROPPED
        terms = reward_terms(self.section.rewards, sample)
        return Credit(reward=sum(terms.values()), terms=terms, kept=False)
