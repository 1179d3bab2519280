"""Kimi k1.5's length reward: in a group the shortest response gains 1/2, the longest loses 1/2, wrong ones never gain.

lambda = 1/2 - (|y| - min) / (max - min), over all responses of the group; 0 where all are equally long
R = c + w lambda if right, w min(0, lambda) otherwise        A = (R - mean R) / (std R + eps)

The paper's optimiser, mirror descent towards the policy of the step before, is not here: the loss is PPO's. Its
baseline is the mean alone: `advantage_normalisation: mean_only`. The paper begins with w = 0, for how long it does not
say, and no public code does so.

Source: arXiv 2501.12599 (2.3.3); hkust-nlp/Laser c9e7c4e, length_penalty.py, compute_kimi_penalty (w .4).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.types import Sample


class KimiSection(ComparingSection):
    """A stage with the length reward of Kimi k1.5 (arXiv 2501.12599)."""

    method: Literal["kimi"] = "kimi"
    """Which method the stage trains with."""
    weight: NonNegativeFloat = 0.4
    """w, the weight of the length reward once it is on."""
    warmup_steps: NonNegativeInt = 0
    """Steps of the stage without a length reward."""


class Kimi(Comparing[KimiSection, NoState]):
    """Accuracy, and length by its place between the group's shortest and longest."""

    Config = KimiSection
    source = "Kimi k1.5, arXiv 2501.12599, section 2.3.3; hkust-nlp/Laser"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy and the length reward."""
        weight = self.section.weight if view.step >= self.section.warmup_steps else 0.0
        shortest, longest = min(s.length for s in samples), max(s.length for s in samples)
        span = longest - shortest
        gains = [0.5 - (s.length - shortest) / span if span else 0.0 for s in samples]
        return [
            {"answer": float(s.right), "length": weight * (gain if s.right else min(0.0, gain))}
            for s, gain in zip(samples, gains, strict=True)
        ]
