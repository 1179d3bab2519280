"""The compress stage (paper 3.3): length clip, positive-only, absolute advantage, exponentially shaped.

R(y) = f(|y|) if y is right, well formed and |y| <= L, else 0        A(y) = beta R(y), samples with R = 0 dropped
"""

from collections.abc import Sequence

from egrc_mega.config.schema import CompressStage
from egrc_mega.methods.base import Method, is_right
from egrc_mega.methods.shaping import shaping
from egrc_mega.types import Group, Sample


class Compress(Method):
    """Positive samples only, each weighted by how short it is."""

    def __init__(self, stage: CompressStage) -> None:
        super().__init__(stage, stage.max_new_tokens)
        self.loss = stage.loss
        self.beta = stage.beta
        self.clip_len = stage.clip_len
        self.shape = shaping(stage.shape, stage.clip_len)

    def reward(self, sample: Sample) -> float:
        """Shaped reward in (0, 1], 0 for anything wrong, malformed, cut or longer than L."""
        is_positive = is_right(sample) and sample.well_formed and sample.length <= self.clip_len
        return self.shape(sample.length) if is_positive else 0.0

    def advantages(self, groups: Sequence[Group]) -> list[list[float]]:
        """beta R: no mean is subtracted, nothing is divided by a deviation."""
        return [[self.beta * self.reward(sample) for sample in group.samples] for group in groups]
