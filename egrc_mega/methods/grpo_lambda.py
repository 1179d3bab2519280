"""GRPO-lambda: only the groups of a batch that are mostly right pay for length; the others train on accuracy alone.

R = c (1 - alpha sigmoid((|y| - mean_right) / (std_right + eps))) in the top lambda of the batch by accuracy, else c
A = (R - mean R) / (std R + eps)

Of the B groups that have a verdict ceil(lambda B) pay; those of equal accuracy go by the names of their problems.

Source: arXiv 2505.18086 (section 3; no code is public): lambda 20 %. The value of alpha is unverified. Two other papers
have the same name (2510.00194, 2510.06870).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState, is_graded
from egrc_mega.methods.normalise import normaliser, within_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.shapes import sigmoid_of_length
from egrc_mega.types import Group, Sample


class GrpoLambdaSection(ComparingSection):
    """GRPO-lambda (arXiv 2505.18086): a length penalty for the groups that can afford it."""

    method: Literal["grpo_lambda"] = "grpo_lambda"
    """Which method the stage trains with."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """lambda: the share of the batch's groups, the most accurate ones, that pay for length."""
    alpha: NonNegativeFloat = 0.2
    """What of the reward hangs on the length; unverified."""


class GrpoLambda(Comparing[GrpoLambdaSection, NoState]):
    """The batch says which groups are shaped, so that accuracy does not collapse."""

    Config = GrpoLambdaSection
    source = "GRPO-lambda, arXiv 2505.18086"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards normalised over each group."""
        section, paying = self.section, self._paying(groups)
        normalise = normaliser(section.advantage_normalisation, section.advantage_eps, section.advantage_min_std)
        terms = [self._shaped if i in paying else self._plain for i in range(len(groups))]
        return [within_groups([group], own, normalise)[0] for group, own in zip(groups, terms, strict=True)]

    def _paying(self, groups: Sequence[Group]) -> frozenset[int]:
        judged = [i for i, group in enumerate(groups) if any(map(is_graded, group.samples))]
        ranked = sorted(judged, key=lambda i: (-groups[i].accuracy, groups[i].problem.key))
        # 0.28 * 25 is a hair above 7
        return frozenset(ranked[: math.ceil(self.section.share * len(judged) - 1e-9)])

    def _plain(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        return [{"answer": float(sample.right)} for sample in samples]

    def _shaped(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        shares = sigmoid_of_length(samples, ddof=1, eps=1e-6)
        return [
            {"answer": float(sample.right), "length": -self.section.alpha * share}
            for sample, share in zip(samples, shares, strict=True)
        ]

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """How many groups pay for length, and from which accuracy on."""
        paying = self._paying(groups)
        lowest = {"lowest_accuracy": min(groups[i].accuracy for i in paying)} if paying else {}
        return {"paying_groups": float(len(paying))} | lowest
