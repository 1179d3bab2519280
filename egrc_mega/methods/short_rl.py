"""Short-RL: a lazy length reward: only for right responses, only beyond a tolerance, only while accuracy holds.

R = format + answer + bonus: 1 + 2 if right, 1 - 1.5 if wrong, -1 - 2 if malformed
bonus if right = 1/2 up to min + 100 tokens, else 1/2 - (|y| - min) / (max - min + 1e-5); min, max: of the right ones
the bonus is paid while the batch's accuracy >= best - .05, and best is the highest so far, this batch's included
A = (R - mean R) / (std R + eps)

The source's format is `<think>..</think><answer>..</answer>`; here it is the grader's format gate.

Source: arXiv 2505.12284; lblankl/Short-RL 07cea8a, deepscaler/deepscaler/rewards/ShortRL.py, scripts/train/Short-RL.sh.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import is_graded
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.types import Group, Sample


class ShortRlSection(ComparingSection):
    """A stage of Short-RL (arXiv 2505.12284)."""

    method: Literal["short_rl"] = "short_rl"
    """Which method the stage trains with."""
    length_tolerance: NonNegativeInt = 100
    """Tokens beyond the shortest right response that cost nothing; 100 for mathematics, 200 for logic."""
    accuracy_tolerance: NonNegativeFloat = 0.05
    """How far the batch's accuracy may lie below the best before lengths stop to matter."""


class ShortRlState(Section):
    """What the lazy reward goes by."""

    best: float = 0.0
    """The highest accuracy of a batch so far."""
    accuracy: float = 0.0
    """That of the last batch."""


class ShortRl(Comparing[ShortRlSection, ShortRlState]):
    """Accuracy, format, and length while accuracy holds."""

    Config, State = ShortRlSection, ShortRlState
    source = "Short-RL, arXiv 2505.12284; lblankl/Short-RL"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards that know how accurate the whole batch is, normalised over each group."""
        return super().credit(groups, replace(view, state=_after(view.state, _accuracy(groups))))

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Format, answer and the lazy bonus."""
        is_on = view.state.accuracy >= view.state.best - self.section.accuracy_tolerance
        right = [sample.length for sample in samples if _is_right(sample)]
        return [self._terms(sample, right if is_on else []) for sample in samples]

    def _terms(self, sample: Sample, right: Sequence[int]) -> Mapping[str, float]:
        answer = 2.0 if _is_right(sample) else -1.5 if sample.well_formed else -2.0
        bonus = 0.0
        if right and _is_right(sample):
            over = sample.length - min(right)
            bonus = 0.5 - (over / (max(right) - min(right) + 1e-5) if over > self.section.length_tolerance else 0.0)
        return {"format": 1.0 if sample.well_formed else -1.0, "answer": answer, "length": bonus}

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """The accuracy that the bonus goes by, of well-formed responses."""
        return {"accuracy": _accuracy(groups)}

    def after_step(self, view: View, record: Mapping[str, Any]) -> ShortRlState:
        """The best accuracy so far."""
        return _after(view.state, record["method_accuracy"])


def _after(state: ShortRlState, accuracy: float) -> ShortRlState:
    return ShortRlState(best=max(state.best, accuracy), accuracy=accuracy)


def _is_right(sample: Sample) -> bool:
    return sample.right and sample.well_formed


def _accuracy(groups: Sequence[Group]) -> float:
    graded = [sample for group in groups for sample in group.samples if is_graded(sample)]
    return sum(_is_right(sample) for sample in graded) / max(1, len(graded))
