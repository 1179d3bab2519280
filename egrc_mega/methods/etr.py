"""ETR: a right response earns a little more the more steadily its entropy falls from one step of reasoning to the next.

E_t: mean token entropy of step t        r_t = gamma r_(t-1) + alpha max(0, E_(t-1) - E_t) - beta max(0, E_t - E_(t-1))
R = 1 + .005 sum over t of r_t if right, -1 otherwise        A = (R - mean R) / (std R + eps)

A step ends with a token that contains an empty line; what follows the last one is the answer, and no step. The code
measures the entropy of the five likeliest tokens as a share of ln 5, on the server; here it is the trainer's over the
whole vocabulary, over the same ln 5. The script rewards the entropy in the loss as well (`loss.entropy_coef` 1e-4).

Source: arXiv 2604.05355 (ACL 2026); Xuan1030/ETR d31ccfe, deepmath.py: 46-95 (alpha .4, beta .8, gamma .99, weight
.005), vllm_rollout_spmd.py: 416-465, deepmath.sh (KL .005, groups of 5, 32 prompts, lr 1e-5 of a LoRA of rank 32).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Literal

from pydantic import NonNegativeFloat

from egrc_mega.errors import DataError
from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.recorded import numbered_facts
from egrc_mega.methods.records import View
from egrc_mega.types import Sample


class EtrSection(ComparingSection):
    """A stage of ETR (arXiv 2604.05355)."""

    method: Literal["etr"] = "etr"
    """Which method the stage trains with."""
    weight: float = 0.005
    """What the trend counts beside a right answer."""
    alpha: NonNegativeFloat = 0.4
    """Gained for entropy that falls from one step to the next."""
    beta: NonNegativeFloat = 0.8
    """Lost for entropy that rises."""
    gamma: NonNegativeFloat = 0.99
    """How much of a step's reward the next one keeps."""
    wrong: float = -1.0
    """The reward of any other response."""
    step_end: str = "\n\n"
    """The text whose token ends a step."""


class Etr(Comparing[EtrSection, NoState]):
    """Accuracy and the trend of entropy."""

    Config = EtrSection
    source = "ETR, arXiv 2604.05355; Xuan1030/ETR"
    needs = frozenset({"entropies", "token_ends"})

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy, and the trend of right responses."""
        weight, wrong = self.section.weight, self.section.wrong
        return [
            {"answer": 1.0 if s.right else wrong, "trend": weight * self._trend(s) if s.right else 0.0} for s in samples
        ]

    def _trend(self, sample: Sample) -> float:
        total = step = 0.0
        for before, after in pairwise(numbered_facts(sample, "step_entropy") or self._entropies(sample)):
            rise = after - before
            step = self.section.gamma * step - (self.section.beta if rise > 0 else self.section.alpha) * rise
            total += step
        return total

    def _entropies(self, sample: Sample) -> Sequence[float]:
        """Mean entropy of each step, of a response that was measured."""
        if sample.entropies is None or sample.token_ends is None:
            raise DataError(
                f"{sample.problem.key}: responses without entropies and places of their tokens pay no trend"
            )
        begins = [0, *sample.token_ends[:-1]]
        texts = [sample.text[begin:end] for begin, end in zip(begins, sample.token_ends, strict=True)]
        cuts = [0, *(i + 1 for i, text in enumerate(texts) if self.section.step_end in text)]
        return [fmean(sample.entropies[begin:end].tolist()) / math.log(5) for begin, end in pairwise(cuts)]
