"""Length terms within a group, as NeMo-RL documents them: bonuses and penalties among right responses, any together.

Over the right responses, where there are at least two; for the whole length, the thinking and the answer:
relative   coefficient (w - mean w), w = 1 - (l - min) / (max - min); 0 where all are equally long
shortest   a bonus to the shortest        longest    a penalty on the longest (of equal ones the first)
outlier    a penalty where .6745 (l - median) / MAD > threshold, unless MAD / median < .015
pass rate  - weight (share of right responses) |y| / max |y|, also where only one is right
R = max(0, c + all terms)        A = (R - mean R) / (std R + eps)        penalties by another model's profile: not here

Source: NVIDIA-NeMo/RL 2e6ddab, docs/guides/length-penalty.md, nemo_rl/utils/length_penalty.py. All is off by default
there; .1 of the whole length is the guide's example, and `relative` what it recommends.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Literal

from pydantic import NonNegativeFloat

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.sections.base import Section
from egrc_mega.types import Sample


class LengthTerms(Section):
    """What one kind of length gains and costs."""

    relative: NonNegativeFloat = 0.0
    """Coefficient of the place between the group's longest and shortest, centred."""
    shortest: NonNegativeFloat = 0.0
    """Bonus of the shortest."""
    longest: NonNegativeFloat = 0.0
    """Penalty on the longest."""
    outlier: NonNegativeFloat = 0.0
    """Penalty on lengths far above the median."""
    outlier_threshold: NonNegativeFloat = 2.5
    """Modified z score above which a length is far."""


class LengthPenaltySection(ComparingSection):
    """A stage with length terms within a group (NeMo-RL)."""

    method: Literal["length_penalty"] = "length_penalty"
    """Which method the stage trains with."""
    total: LengthTerms = LengthTerms(relative=0.1)
    """Terms of the whole length."""
    thinking: LengthTerms = LengthTerms()
    """Terms of the tokens up to `</think>`."""
    answer: LengthTerms = LengthTerms()
    """Terms of the tokens after it."""
    pass_rate_weight: NonNegativeFloat = 0.0
    """Weight of the penalty that grows with the group's accuracy."""


class LengthPenalty(Comparing[LengthPenaltySection, NoState]):
    """Accuracy, and length among the right responses."""

    Config = LengthPenaltySection
    source = "NVIDIA-NeMo/RL, docs/guides/length-penalty.md"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy, and what the terms of a right response add up to."""
        right, c = [sample for sample in samples if sample.right], self.section
        longest = max((s.length for s in right), default=1)
        kinds = [
            [-c.pass_rate_weight * len(right) / len(samples) * s.length / longest for s in right],
            _gains(c.total, [s.length for s in right]),
            _gains(c.thinking, [s.think_length or 0 for s in right]),
            _gains(c.answer, [s.answer_length for s in right]),
        ]
        gains = iter([max(-1.0, sum(parts)) for parts in zip(*kinds, strict=True)])
        return [{"answer": float(s.right), "length": next(gains) if s.right else 0.0} for s in samples]


def _gains(terms: LengthTerms, lengths: Sequence[int]) -> Sequence[float]:
    gains, present = [0.0] * len(lengths), [length for length in lengths if length]
    if len(lengths) < 2 or not present:
        return gains
    span, middle = max(lengths) - min(lengths), median(lengths)
    places = [(max(lengths) - length) / span if span else 0.0 for length in lengths]
    mad = median(abs(length - middle) for length in lengths)
    is_spread = mad > 0 and mad >= 0.015 * middle
    for i, length in enumerate(lengths):
        gains[i] += terms.relative * (places[i] - fmean(places))
        gains[i] -= terms.outlier * (is_spread and 0.6745 * (length - middle) > terms.outlier_threshold * mad)
    gains[lengths.index(min(present))] += terms.shortest
    gains[lengths.index(max(present))] -= terms.longest * (len(present) > 1)
    return gains
