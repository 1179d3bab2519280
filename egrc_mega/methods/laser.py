"""Laser: a right answer that keeps to a target length pays half a point more; the cap stays far above the target.

R = 1 right, -1/2 wrong, -1 ill formed; + 1/2 if right and |y| <= L_T        A = (R - mean R) / (std R + eps)

Source: arXiv 2505.15612; hkust-nlp/Laser c9e7c4e, length_penalty.py, hf_math_verifier.py, laser-1.5b-l*.sh: L_T of
2048, 4096 or 8192, cap 16384, groups of 8, temperature .6, clip .2 / .28, KL and entropy .001.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import PositiveInt

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.methods.targets import verdict
from egrc_mega.sections.stage import LossSection, SamplingSection
from egrc_mega.types import Sample


class LaserSection(ComparingSection):
    """Laser (arXiv 2505.15612): a step in the reward at a target length."""

    method: Literal["laser"] = "laser"
    """Which method the stage trains with."""
    target: PositiveInt = 4096
    """L_T, in tokens."""
    bonus: float = 0.5
    """What a right answer within it gets more."""
    rollout: SamplingSection = SamplingSection(n=8, temperature=0.6, max_new_tokens=16384)
    """Sampling of the stage."""
    loss: LossSection = LossSection(ratio="token")
    """Reduction of the loss."""


class Laser(Comparing[LaserSection, NoState]):
    """One target for all problems."""

    Config = LaserSection
    source = "Laser, arXiv 2505.15612; hkust-nlp/Laser"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """The verdict and the bonus."""
        return [{"answer": verdict(sample), "length": self._bonus(sample)} for sample in samples]

    def _bonus(self, sample: Sample) -> float:
        return self.section.bonus * (verdict(sample) == 1.0 and sample.length <= self.section.target)
