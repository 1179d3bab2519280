"""Laser-D: as Laser, with a target length for each level of difficulty, chosen anew every 20 steps.

R = 1 right, -1/2 wrong, -1 ill formed; + 1/2 if right and |y| <= L_T(level)        A = (R - mean R) / (std R + eps)

How targets are chosen, and where that differs from the authors: `targets.py`.

Source: arXiv 2505.15612; hkust-nlp/Laser c9e7c4e, length_penalty.py, laser-d-1.5b-l*.sh.
"""

from typing import Literal

from egrc_mega.methods.targets import Targets, TargetsSection, verdict
from egrc_mega.types import Sample


class LaserDSection(TargetsSection):
    """Laser-D (arXiv 2505.15612): target lengths by difficulty."""

    method: Literal["laser_d"] = "laser_d"
    """Which method the stage trains with."""


class LaserD(Targets[LaserDSection]):
    """Easy problems get short targets, hard ones long ones."""

    Config = LaserDSection
    source = "Laser-D, arXiv 2505.15612; hkust-nlp/Laser"

    def extra(self, sample: Sample, target: float) -> float:
        """The bonus of a right answer within the target."""
        return self.section.bonus * (verdict(sample) == 1.0 and sample.length <= target)
