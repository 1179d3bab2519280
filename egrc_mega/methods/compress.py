"""The compress stage (paper 3.3): length clip, positive-only, absolute advantage, exponentially shaped.

R(y) = f(|y|) if y is right, well formed and |y| <= L, else 0        A(y) = beta R(y), samples with R = 0 dropped
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.records import DROPPED, Credit, View
from egrc_mega.methods.shapes import ShapeSection, shaped
from egrc_mega.sections.stage import StageSection
from egrc_mega.types import Grade, Group, Sample


class CompressSection(StageSection):
    """Entropy-descending: positive-only, absolute advantage decayed with length, hard length clip (paper 3.3)."""

    method: Literal["compress"] = "compress"
    """Which method the stage trains with."""
    clip_len: PositiveInt = 4096
    """L, in output tokens (paper 3.3.1)."""
    beta: PositiveFloat = 1.0
    """A = beta R. Without a KL or entropy term Adam cancels it; it only moves the clip and epsilon."""
    shape: ShapeSection = ShapeSection()
    """How R falls with length."""
    accept_truncated: bool = False
    """Pay for a right answer that stands in a response which the cap then ended; its format is not asked for. The
    paper's clip takes the reward from what has no final answer token (3.3.1)."""


class Compress(Method[CompressSection, NoState]):
    """Positive samples only, each weighted by how short it is."""

    Config = CompressSection
    source = "EGRC, arXiv 2511.14258, section 3.3"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Advantages beta R: no mean is subtracted, nothing is divided by a deviation."""
        return [[self._credit(sample) for sample in group.samples] for group in groups]

    def _credit(self, sample: Sample) -> Credit:
        if not is_graded(sample):
            return DROPPED
        section = self.section
        if not (self._is_paid(sample) and sample.length <= section.clip_len):
            return Credit(reward=0.0, kept=False)
        reward = shaped(section.shape, section.clip_len, sample.length)
        return Credit(advantage=section.beta * reward, reward=reward)

    def _is_paid(self, sample: Sample) -> bool:
        if sample.completion.truncated:
            return self.section.accept_truncated and sample.grade is Grade.RIGHT
        return sample.right and sample.well_formed

    @property
    def longest(self) -> int:
        """The cap in force; what is longer than L could not be kept."""
        return self.section.rollout.max_new_tokens or self.section.clip_len
