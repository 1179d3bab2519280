"""ThinkPrune: GRPO on accuracy alone under a cap that shrinks from phase to phase; what is cut counts as wrong.

R = 1 if the answer is right and finished within the cap, else 0        A = (R - mean R) / (std R + eps)

Source: arXiv 2504.01296; ThinkPrune's local_scripts/multi_node_run_{4k,3k_from4k}.sh (4000, 3000, 2000; handed over at
step 180), examples/data_preprocess (the system text names the cap). A box inside unfinished thinking scores 1 there and
0 here: an answer that was cut off does not count.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method
from egrc_mega.methods.normalise import group_problems, over_groups, z_score
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Ask, Group, Problem


class ThinkPruneSection(StageSection):
    """ThinkPrune (arXiv 2504.01296): the cap shrinks, and accuracy under it is all that counts."""

    method: Literal["thinkprune"] = "thinkprune"
    """Which method the stage trains with."""
    caps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (4000, 3000, 2000)
    """Caps on |y|, one after the other; the last one stays."""
    steps_per_cap: PositiveInt = 180
    """Steps under each cap."""
    system: str | None = "The output of the assistant should be within {cap} tokens."
    """System text of every problem, `{cap}` replaced; None: the problem alone."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    loss: LossSection = LossSection(ratio="token")
    """Reduction of the loss."""


class ThinkPruneState(Section):
    """How far the caps have shrunk."""

    phase: NonNegativeInt = 0
    """Index of the cap in force."""
    steps: NonNegativeInt = 0
    """Steps that it has been in force."""


class ThinkPrune(Method[ThinkPruneSection, ThinkPruneState]):
    """Accuracy under a shrinking cap."""

    Config, State = ThinkPruneSection, ThinkPruneState
    source = "ThinkPrune, arXiv 2504.01296; UCSB-NLP-Chang/ThinkPrune"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """The cap in force, told to the model as well."""
        cap = self.section.caps[view.state.phase]
        system = self.section.system.replace("{cap}", str(cap)) if self.section.system else None
        return [Ask(system=system, max_new_tokens=cap)] * self.section.rollout.n

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Accuracy normalised over each group."""
        normalise = z_score(self.section.advantage_eps)
        return over_groups(groups, lambda sample: {"answer": float(sample.right)}, normalise)

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """The cap in force."""
        return {"cap": float(self.section.caps[view.state.phase])}

    def after_step(self, view: View, record: Mapping[str, Any]) -> ThinkPruneState:
        """The next cap once this one has had its steps."""
        phase, steps = view.state.phase, view.state.steps + 1
        if steps == self.section.steps_per_cap and phase + 1 < len(self.section.caps):
            return ThinkPruneState(phase=phase + 1)
        return ThinkPruneState(phase=phase, steps=steps)

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample; the caps are the method's, and they shrink."""
        yield from group_problems(self.section)
        caps = self.section.caps
        if self.section.rollout.max_new_tokens is not None:
            yield "rollout.max_new_tokens: the caps are given by `caps`; leave it out"
        if any(later >= earlier for earlier, later in pairwise(caps)):
            yield f"caps: {list(caps)} do not shrink; give each one smaller than the one before"

    @property
    def longest(self) -> int:
        """The widest of the caps, which is the first."""
        return max(self.section.caps)
