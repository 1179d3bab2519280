"""AutoThink: a prompt that begins with an ellipsis leaves it to the model whether it thinks, and neither mode may win.

base: thinking 1 right, 0 wrong; no thinking 2 right, -1 wrong (-2 where it repeats itself); 0 where ill formed
length: + exp(-alpha z) - 1 for right ones, + 1 - exp(-beta z) for the others, z = (|y| - mean) / std among their kind
balance, last: where a mode's share s of the batch is above gamma, R <- (1 - d) R + d T, d = clip(2 (s - gamma), 0, 1)
    T: thinking 0 right, -1 wrong; no thinking 1 right, -2 wrong        A = (R - mean R) / (std R + eps)

Ill formed is wrong; longer wrong answers are better. Stages: gamma .5, 1, 1; alpha = beta 0, 0, .05; caps 8k, 16k, 24k.

Source: arXiv 2505.10832; TU2021/AutoThink be0bcb0, main_ppo.py, math_reward.py, train_stage{1,2,3}.sh.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.modes import is_thinking
from egrc_mega.methods.normalise import group_problems, within_groups, z_score
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.repeats import repeats_words
from egrc_mega.methods.shapes import among_own_kind
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Ask, Group, Problem, Sample

TARGETS = {(True, True): 0.0, (True, False): -1.0, (False, True): 1.0, (False, False): -2.0}
"""T by whether a response thinks and is right."""


class AutoThinkSection(StageSection):
    """One of the three stages of AutoThink (arXiv 2505.10832): learn when to think."""

    method: Literal["autothink"] = "autothink"
    """Which method the stage trains with."""
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the batch above which a mode loses value; 1: never."""
    alpha: NonNegativeFloat = 0.0
    """How steeply right answers lose with length."""
    beta: NonNegativeFloat = 0.0
    """How steeply wrong answers gain with length."""
    opening: str = "...\n"
    """Text behind the generation prompt: after `<think>` it makes thinking optional."""
    no_thinking: str = "</think>"
    """Begin of a response that does not think."""
    rollout: SamplingSection = SamplingSection(n=8, temperature=0.6)
    """Sampling of the stage."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", eps_clip_high=0.2)
    """Reduction of the loss."""


class AutoThink(Method[AutoThinkSection, NoState]):
    """Both modes come from the policy; their balance in the batch says what they pay."""

    Config = AutoThinkSection
    source = "AutoThink, arXiv 2505.10832; TU2021/AutoThink"

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """The ellipsis opens every response."""
        return [Ask(opening=self.section.opening)] * self.section.rollout.n

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards, balanced over the batch, normalised over each group."""
        judged = [sample for group in groups for sample in group.samples if is_graded(sample)]
        share = fmean(map(self._thinks, judged)) if judged else 0.5
        above = {True: share - self.section.gamma, False: 1 - share - self.section.gamma}
        lean = {thinks: min(1.0, max(0.0, 2 * excess)) for thinks, excess in above.items()}
        return within_groups(groups, lambda samples: self._terms(samples, lean), z_score())

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample."""
        yield from group_problems(self.section)

    def _thinks(self, sample: Sample) -> bool:
        return is_thinking(sample, self.section.no_thinking)

    def _terms(self, samples: Sequence[Sample], lean: Mapping[bool, float]) -> list[Mapping[str, float]]:
        right = [sample.right and sample.well_formed for sample in samples]
        z = among_own_kind([sample.length for sample in samples], right)
        return [self._parts(*each, lean) for each in zip(samples, right, z, strict=True)]

    def _parts(self, sample: Sample, right: bool, z: float, lean: Mapping[bool, float]) -> Mapping[str, float]:
        thinks = self._thinks(sample)
        length = math.exp(-self.section.alpha * z) - 1 if right else 1 - math.exp(-self.section.beta * z)
        answer = 2.0 - thinks if right else 0.0 if thinks or not sample.well_formed else -1.0
        answer = -2.0 if answer < 0 and repeats_words(sample) else answer
        balance = lean[thinks] * (TARGETS[thinks, right] - answer - length)
        return {"answer": answer, "length": length, "balance": balance}
