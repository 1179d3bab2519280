"""ThinkPrune: GRPO on accuracy alone under a cap that shrinks from phase to phase; what is cut counts as wrong.

`paper`: R = 1 if right and finished within the cap      `code`: R = 1 if right      A = (R - mean R) / (std R + eps)

Source: arXiv 2504.01296; ThinkPrune 0f7449b local_scripts/multi_node_run_{4k,3k_from4k}.sh (4000, 3000, 2000 after 180
steps each), examples/data_preprocess (the system text), qwen_math.py: 527-576 (a truncated response's box counts).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method
from egrc_mega.methods.normalise import group_problems, over_groups, z_score
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Ask, Grade, Group, Problem


class ThinkPruneSection(StageSection):
    """ThinkPrune (arXiv 2504.01296): what counts is accuracy under a cap that shrinks."""

    method: Literal["thinkprune"] = "thinkprune"
    """Which method the stage trains with."""
    variant: Literal["paper", "code"] = "paper"
    """`paper`: what is truncated earns nothing. `code`: it earns 1 where its answer is right."""
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
    """Steps under it."""


class ThinkPrune(Method[ThinkPruneSection, ThinkPruneState]):
    """Accuracy under a shrinking cap."""

    Config, State = ThinkPruneSection, ThinkPruneState
    source = "ThinkPrune, arXiv 2504.01296; UCSB-NLP-Chang/ThinkPrune"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """The cap in force, told to the model as well."""
        cap, text = self.section.caps[view.state.phase], self.section.system
        system = text.replace("{cap}", str(cap)) if text else None
        return [Ask(system=system, max_new_tokens=cap)] * self.section.rollout.n

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Accuracy normalised over each group."""
        is_right = (lambda s: s.grade is Grade.RIGHT) if self.section.variant == "code" else (lambda s: s.right)
        return over_groups(groups, lambda s: {"answer": float(is_right(s))}, z_score(self.section.advantage_eps))

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """The cap in force."""
        return {"cap": float(self.section.caps[view.state.phase])}

    def after_step(self, view: View, record: Mapping[str, Any]) -> ThinkPruneState:
        """The next cap once this one has had its steps."""
        phase, steps = view.state.phase, view.state.steps + 1
        is_last = phase + 1 == len(self.section.caps)
        is_over = steps == self.section.steps_per_cap and not is_last
        return ThinkPruneState(phase=phase + 1) if is_over else ThinkPruneState(phase=phase, steps=steps)

    def problems(self) -> Iterator[str]:
        """The caps are the method's, and they shrink."""
        yield from group_problems(self.section)
        caps = self.section.caps
        if self.section.rollout.max_new_tokens is not None:
            yield "rollout.max_new_tokens: the caps are given by `caps`; leave it out"
        if list(caps) != sorted(set(caps), reverse=True):
            yield f"caps: {list(caps)} do not shrink; give each one smaller than the one before"

    @property
    def longest(self) -> int:
        """The widest of the caps, which is the first."""
        return max(self.section.caps)
