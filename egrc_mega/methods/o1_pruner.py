"""O1-Pruner, on-policy: shorter than the reference model and no less accurate, weighed over the whole batch.

W = clip((l_ref - |y|) / |y| + alpha (c - c_ref), -2, 4)        A = (W - mean W) / std W, population, over the batch

The authors train offline, on two of twelve responses of the reference model to a problem, with the ratio to its
log-probs, and normalise over that data set. Here responses are the policy's and the batch takes the data set's place;
the ratio is to the reference model's log-probs as there, so that its clip holds the policy near that model.

Source: arXiv 2501.12570; StarDewXXX/O1-Pruner 04c0863, o1_scripts/construct_dataset.py: 65-113 (alpha 5: its README),
src/llamafactory/train/wsft/trainer.py (one ratio a response, clip .2).
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Literal

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import over_batch
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group, Sample


class O1PrunerSection(StageSection):
    """A stage with O1-Pruner's weights (arXiv 2501.12570)."""

    method: Literal["o1_pruner"] = "o1_pruner"
    """Which method the stage trains with."""
    alpha: float = 5.0
    """What accuracy above the reference model's is worth, in units of relative length."""
    lowest: float = -2.0
    """Bound on the weight from below."""
    highest: float = 4.0
    """Bound on the weight from above."""
    reference_accuracy: str = "reference_accuracy"
    """The fact of a problem (see data.facts) that holds the reference model's accuracy on it."""
    reference_length: str = "reference_length"
    """The fact of a problem that holds the mean length of the reference model's responses, in tokens."""
    loss: LossSection = LossSection(ratio="sequence", eps_clip_high=0.2, old_logprobs="reference")
    """One clipped ratio a response, to the reference model."""


class O1Pruner(Method[O1PrunerSection, NoState]):
    """Length and accuracy against the reference model's."""

    Config = O1PrunerSection
    source = "O1-Pruner, arXiv 2501.12570; StarDewXXX/O1-Pruner"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Weights normalised over the batch."""
        return over_batch(groups, self._terms, _standardised)

    def _terms(self, sample: Sample) -> Mapping[str, float]:
        section, problem = self.section, sample.problem
        length = (problem.fact(section.reference_length) - sample.length) / sample.length
        accuracy = section.alpha * (sample.right - problem.fact(section.reference_accuracy))
        return {"weight": min(section.highest, max(section.lowest, length + accuracy))}


def _standardised(weights: Sequence[float]) -> Sequence[float]:
    """(w - mean) / std over the population, nothing added; 0 where all are equal."""
    if max(weights) == min(weights):
        return [0.0] * len(weights)
    mean, deviation = fmean(weights), pstdev(weights)
    return [(weight - mean) / deviation for weight in weights]
