"""What top-p and top-k have left of the vocabulary where a token was drawn: the sampler's own word for it.

A ratio of two policies needs both log-probs over the same tokens. The trainer cannot find the sampler's nucleus again:
near its border a token falls on the other side with the smallest difference. So the server names it, and it is kept
with the tokens ("keep sampling mask", DeepSeek-V3.2, arXiv 2512.02556).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class SamplingMask:
    """Of O output tokens, what each of them was drawn from, M vocabulary ids in all. Read only."""

    token_ids: NDArray[np.int32]
    """int32[M]: the masks of the tokens end to end; each holds the token itself."""
    counts: NDArray[np.int32]
    """int32[O]: how many ids each token's mask has. 0 where nothing was left out, or nothing was drawn."""

    @classmethod
    def of_none(cls, num_tokens: int) -> "SamplingMask":
        """Of tokens that were not drawn."""
        return cls(np.zeros(0, np.int32), np.zeros(num_tokens, np.int32))

    def first(self, num_tokens: int) -> "SamplingMask":
        """That of the first tokens."""
        counts = self.counts[:num_tokens]
        return SamplingMask(self.token_ids[: counts.sum()], counts)

    def split(self, lengths: Sequence[int] | NDArray[np.integer[Any]]) -> "list[SamplingMask]":
        """Undo `join_masks` of parts of so many tokens. What comes back are views."""
        ends = np.cumsum(lengths)[:-1]
        id_ends = np.concatenate([[0], np.cumsum(self.counts)])[ends]
        parts = zip(np.split(self.token_ids, id_ends), np.split(self.counts, ends), strict=True)
        return [SamplingMask(ids, counts) for ids, counts in parts]

    def chosen(self, is_chosen: NDArray[np.bool_]) -> "SamplingMask":
        """That of the tokens where [O] `is_chosen` is True."""
        return SamplingMask(self.token_ids[np.repeat(is_chosen, self.counts)], self.counts[is_chosen])


def join_masks(parts: Sequence[tuple[SamplingMask | None, int]]) -> SamplingMask | None:
    """Masks end to end, each with its number of tokens; tokens without one were drawn from the whole vocabulary.

    None where no part has a mask.
    """
    if all(mask is None for mask, _num_tokens in parts):
        return None
    masks = [mask or SamplingMask.of_none(num_tokens) for mask, num_tokens in parts]
    return SamplingMask(
        np.concatenate([mask.token_ids for mask in masks]), np.concatenate([mask.counts for mask in masks])
    )
