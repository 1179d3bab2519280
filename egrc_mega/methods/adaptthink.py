"""AdaptThink: half of a group is made to think, half is made not to; the reward prefers not thinking where it suffices.

R = 1[no thinking] delta + c - c_ref(problem)        A = R, no deviation        pi_old(forced first token) = 1/2
c = 1 if right and well formed, else 0

c_ref is the base model's accuracy on the problem, a column of the data that `data.facts` names. The mode is what was
forced, not what came out. The authors' grader asks for one `</think>`: c is 0 without it, whatever the answer.

Source: arXiv 2505.13417 (eq. 4 to 7); THU-KEG/AdaptThink, adapt_think_{reward_manager,rm,core_algos,vllm_rollout}.py,
scripts/run_adapt_think_1.5b_*.sh: delta .05, groups of 16, temperature .6, lr 2e-6, clip .2.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

from pydantic import PositiveInt

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.modes import NO_THINKING, THINKING
from egrc_mega.methods.normalise import itself, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.stage import FactName, LossSection, SamplingSection, StageSection
from egrc_mega.types import Ask, Group, Problem, Sample


class AdaptThinkSection(StageSection):
    """AdaptThink (arXiv 2505.13417): learn when not to think."""

    method: Literal["adaptthink"] = "adaptthink"
    """Which method the stage trains with."""
    delta: float = 0.05
    """What not thinking is worth."""
    no_thinking: str = "</think>"
    """Begin of a response that does not think."""
    no_thinking_cap: PositiveInt = 4096
    """Generation cap of a response that does not think."""
    thinking: str = "Alright"
    """Begin of a response that thinks."""
    thinking_cap: PositiveInt = 16384
    """Generation cap of a response that thinks."""
    reference_accuracy: FactName = "reference_accuracy"
    """The fact of a problem (see data.facts) that holds the base model's accuracy on it."""
    rollout: SamplingSection = SamplingSection(n=16, temperature=0.6)
    """Sampling of the stage; half of a group is of each mode."""
    loss: LossSection = LossSection(ratio="sequence", eps_clip_high=0.2)
    """One clipped ratio a response; the forced token's old probability is 1/2."""


class AdaptThink(Method[AdaptThinkSection, NoState]):
    """Both modes are sampled; which one pays is learnt problem by problem."""

    Config = AdaptThinkSection
    source = "AdaptThink, arXiv 2505.13417; THU-KEG/AdaptThink"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """Half of the group in each mode."""
        c = self.section
        short = Ask(forced=c.no_thinking, tag=NO_THINKING, max_new_tokens=c.no_thinking_cap)
        long = Ask(forced=c.thinking, tag=THINKING, max_new_tokens=c.thinking_cap)
        return [short] * (c.rollout.n // 2) + [long] * (c.rollout.n // 2)

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """The reward itself; forced tokens count as drawn with probability 1/2."""
        rows = over_groups(groups, self._terms, itself)
        return [[replace(credit, forced_logprob=math.log(0.5)) for credit in row] for row in rows]

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        reference = sample.problem.fact(self.section.reference_accuracy)
        is_short = sample.ask.tag == NO_THINKING
        is_paid = sample.right and sample.well_formed
        return {"answer": float(is_paid), "reference": -reference, "mode": self.section.delta * is_short}

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """Accuracy of each mode."""
        samples = [sample for group in groups for sample in group.samples if is_graded(sample)]
        by_mode = {m: [float(s.right) for s in samples if s.ask.tag == m] for m in (NO_THINKING, THINKING)}
        return {f"accuracy_{mode}": fmean(right) for mode, right in by_mode.items() if right}

    def problems(self) -> Iterator[str]:
        """Halves are whole numbers."""
        if self.section.rollout.n % 2:
            yield f"rollout.n: {self.section.rollout.n} is odd, and half of a group is of each mode; make it even"

    @property
    def longest(self) -> int:
        """The wider of the two modes' caps."""
        return max(self.section.no_thinking_cap, self.section.thinking_cap)
