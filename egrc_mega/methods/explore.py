"""The explore stage (paper 3.4): GRPO on R = R_format + R_answer + R_length.

R_length = max(floor, -slope * max(0, |y| - L) / unit)        A = (R - mean R) / (std R + eps), std unbiased

What the paper leaves open (steps or a line, whose length costs, whose statistics) are options; the defaults are the
plainest reading.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import Normalisation, group_problems, normaliser, over_batch, over_both, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward import AnyReward, reward_terms
from egrc_mega.methods.shapes import linear_over
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group, Sample


class ExploreReward(Section):
    """R = R_format + R_answer + R_length (paper 3.4)."""

    answer: float = 1.0
    """For a right answer."""
    format: float = 0.2
    """For a well-formed, finished response."""
    length_slope: NonNegativeFloat = 0.25
    """Lost per `length_unit` tokens beyond clip_len."""
    length_unit: PositiveInt | None = None
    """Tokens; None: clip_len / 4, which is the paper's 1k at L = 4096."""
    length_floor: float = -1.0
    """R_length is never below this."""
    length_steps: Literal["none", "floor", "ceil"] = "none"
    """Units of excess as they are, or only the whole ones (`floor`), or every one that has begun (`ceil`)."""
    length_of: Literal["all", "right"] = "all"
    """Whose length costs: everybody's, or that of right answers only."""
    more: tuple[AnyReward, ...] = ()
    """Further terms, added to the three; see `egrc config show --methods`."""


class ExploreSection(StageSection):
    """Entropy-ascending: GRPO at a higher temperature with a mild length penalty (paper 3.4)."""

    method: Literal["explore"] = "explore"
    """Which method the stage trains with."""
    clip_len: PositiveInt = 4096
    """L, in output tokens (paper 3.3.1)."""
    reward: ExploreReward = ExploreReward()
    """Terms of the reward."""
    advantage_scope: Literal["group", "batch", "group_mean_batch_std"] = "group"
    """Statistics of A = (R - mean) / std over the prompt's group, over the whole batch, or one of each."""
    advantage_normalisation: Normalisation = "std"
    """`std`: A = (R - mean) / std (GRPO). Groups that hardly differ then weigh as much as any: easy and hard problems
    more than half-solved ones (difficulty bias), and where all are right one token too many costs as much as a wrong
    answer elsewhere. `mean_only`: A = R - mean, in units of the reward (Dr.GRPO)."""
    advantage_min_std: NonNegativeFloat = 0.0
    """Floor under the standard deviation, in units of the reward: smaller differences are not blown up. 0: none."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    loss: LossSection = LossSection(ratio="token")
    """Reduction of the loss."""


class Explore(Method[ExploreSection, NoState]):
    """Accuracy first; only severe redundancy costs a little."""

    Config = ExploreSection
    source = "EGRC, arXiv 2511.14258, section 3.4"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards normalised over the group or the batch."""
        section = self.section
        if section.advantage_scope == "group_mean_batch_std":
            return over_both(groups, self._terms, section.advantage_eps, section.advantage_min_std)
        over = over_batch if section.advantage_scope == "batch" else over_groups
        normalise = normaliser(section.advantage_normalisation, section.advantage_eps, section.advantage_min_std)
        return over(groups, self._terms, normalise)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        terms = self.section.reward
        costs = sample.right or terms.length_of == "all"
        length = self._length_term(sample.length) if costs else 0.0
        own = {"format": terms.format * sample.well_formed, "answer": terms.answer * sample.right, "length": length}
        return own | {f"more_{name}": value for name, value in reward_terms(terms.more, sample).items()}

    def _length_term(self, length: int) -> float:
        terms, clip = self.section.reward, self.section.clip_len
        unit = terms.length_unit or clip / 4
        if terms.length_steps != "none" and length > clip:
            round_to = math.ceil if terms.length_steps == "ceil" else math.floor
            return max(terms.length_floor, -terms.length_slope * round_to((length - clip) / unit))
        return linear_over(length, clip, unit, terms.length_slope, terms.length_floor)

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; dynamic sampling by advantage asks one group at a time."""
        section, scope = self.section, self.section.advantage_scope
        if scope != "batch":
            yield from group_problems(section)
        if section.rollout.drop_groups == "no_advantage" and scope != "group":
            yield (
                f"advantage_scope: {scope}, but rollout.drop_groups: no_advantage asks each group for its advantage; "
                f"set the scope to group, or drop_groups to all_right_or_wrong"
            )
        if scope == "group_mean_batch_std" and section.advantage_normalisation == "mean_only":
            yield f"advantage_normalisation: mean_only, but advantage_scope: {scope} divides by a deviation; set std"

    @property
    def longest(self) -> int:
        """The cap in force."""
        return self.section.rollout.max_new_tokens or 2 * self.section.clip_len
