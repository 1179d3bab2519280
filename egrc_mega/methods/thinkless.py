"""Thinkless (DeGRPO): the first token says whether the model thinks, and has a loss of its own beside the response's.

R = 1 right and short, 1/2 right after thinking, -1 wrong or ill formed        A = R - mean R
loss = alpha mean(first tokens) + mean(all others)

paper: means over each response, then over responses (1/T a response). code: means over all tokens of the batch (over
those of a micro-batch there, so its loss depends on how a batch is split; here it does not).

The model must know both tokens already, and close its thinking also where that is empty, `<short></think>`, for the
grader looks behind `</think>`. The published run has 300 steps with 1/2 for thinking, then 180 with .8.

Source: arXiv 2505.13379; VainF/Thinkless aa225d2, core_algos.py, math_reward.py, thinkless_1.5b_deepscaler.sh.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeFloat, model_validator

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.modes import is_thinking
from egrc_mega.methods.normalise import centred, each_sample, group_problems, over_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Group, Sample

AGGREGATIONS = {"paper": "seq-mean-token-mean", "code": "token-mean"}
"""`loss.agg` of each variant."""


class ThinklessSection(StageSection):
    """Thinkless (arXiv 2505.13379): a control token of its own weight decides about thinking."""

    method: Literal["thinkless"] = "thinkless"
    """Which method the stage trains with."""
    variant: Literal["paper", "code"] = "paper"
    """What the loss averages over: each response (paper), or the tokens of the batch (code). Credits are the same."""
    alpha: NonNegativeFloat = 1e-3
    """Weight of the control token's loss."""
    short: str = "<short>"
    """The control token of a response that does not think."""
    thinking_reward: float = 0.5
    """Reward of a right answer after thinking."""
    rollout: SamplingSection = SamplingSection(n=8, temperature=0.6)
    """Sampling of the stage."""
    loss: LossSection = LossSection(ratio="token", eps_clip_high=0.2)
    """Reduction of the loss; `variant` and `alpha` say `agg` and `class_weights`."""

    @model_validator(mode="before")
    @classmethod
    def _loss_of_variant(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("loss", {}), dict):
            return given
        agg = AGGREGATIONS.get(given.get("variant", "paper"), "token-mean")
        own = {"agg": agg, "class_weights": (given.get("alpha", 1e-3), 1.0)}
        return given | {"loss": own | given.get("loss", {})}


class Thinkless(Method[ThinklessSection, NoState]):
    """A short right answer is worth twice one after thinking."""

    Config = ThinklessSection
    source = "Thinkless, arXiv 2505.13379; VainF/Thinkless"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the group's mean; the first token is a class of its own."""
        return each_sample(groups, over_groups(groups, self._terms, centred), _classed)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        if not (sample.right and sample.well_formed):
            return {"answer": -1.0}
        return {"answer": self.section.thinking_reward if is_thinking(sample, self.section.short) else 1.0}

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """Share of the judged responses that think."""
        judged = [sample for group in groups for sample in group.samples if is_graded(sample)]
        return {"thinking": fmean(is_thinking(s, self.section.short) for s in judged)} if judged else {}

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample."""
        yield from group_problems(self.section)


def _classed(credit: Credit, sample: Sample) -> Credit:
    return replace(credit, token_class=np.minimum(np.arange(sample.length), 1))
