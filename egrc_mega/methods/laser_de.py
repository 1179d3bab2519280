"""Laser-DE: as Laser-D, and a wrong answer beyond the target is forgiven where it does not repeat itself: exploration.

R = 1 right, -1/2 wrong, -1 ill formed; + 1/2 if right and |y| <= L_T(level), or if wrong, well formed, |y| > L_T(level)
and no run of tokens stands several times        A = (R - mean R) / (std R + eps)

How targets are chosen, and where that differs from the authors: `targets.py`.

Source: arXiv 2505.15612; hkust-nlp/Laser c9e7c4e, length_penalty.py, compute_unique_tokens.py, laser-de-1.5b-l*.sh.
"""

from typing import Literal

from egrc_mega.methods.repeats import repeats_tokens
from egrc_mega.methods.targets import Targets, TargetsSection, verdict
from egrc_mega.types import Sample


class LaserDeSection(TargetsSection):
    """Laser-DE (arXiv 2505.15612): target lengths by difficulty, and long wrong answers may explore."""

    method: Literal["laser_de"] = "laser_de"
    """Which method the stage trains with."""


class LaserDe(Targets[LaserDeSection]):
    """What is wrong may go on thinking."""

    Config = LaserDeSection
    source = "Laser-DE, arXiv 2505.15612; hkust-nlp/Laser"

    def extra(self, sample: Sample, target: float) -> float:
        """The bonus of a right answer within the target, or of a wrong one that explores beyond it."""
        if verdict(sample) == 1.0:
            return self.section.bonus * (sample.length <= target)
        explores = verdict(sample) == -0.5 and sample.length > target and not repeats_tokens(sample)
        return self.section.bonus * explores
