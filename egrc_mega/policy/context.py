"""Context parallelism: which tokens of packed sequences each rank holds.

Every sequence is padded to a multiple of twice the number of ranks and cut into that many chunks; rank r holds chunk r
and the mirrored one, so that the causal triangle is shared evenly. This is megatron-core's order, and its rope's
(models/common/embeddings/rope_utils.py, `_get_thd_freqs_on_this_cp_rank`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """How the tokens of a micro-batch are dealt out."""

    context_size: int = 1
    context_rank: int = 0
    sequence_size: int = 1
    """Tensor-parallel ranks that share tokens between layers; 1 without sequence parallelism."""

    @property
    def sequence_multiple(self) -> int:
        """What the length of every sequence is padded to."""
        return 2 * self.context_size if self.context_size > 1 else 1

    @property
    def total_multiple(self) -> int:
        """What the number of all tokens must divide by."""
        return self.context_size * self.sequence_size


def chunks(boundaries: Sequence[int], size: int, rank: int) -> list[tuple[int, int, int]]:
    """(start of the sequence, begin, end) of each chunk that a rank holds, in its order; positions in the whole."""
    found = []
    for start, end in pairwise(boundaries):
        length = (end - start) // (2 * size)
        for number in (rank, 2 * size - 1 - rank):
            found.append((start, start + number * length, start + (number + 1) * length))
    return found


def ranges(starts: ArrayLike, lengths: ArrayLike) -> NDArray[np.int64]:
    """All numbers start, start + 1, ... of each range, one range after the other."""
    starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def held_tokens(boundaries: Sequence[int], size: int, rank: int) -> NDArray[np.int64]:
    """[T] Positions in the whole of the tokens that a rank holds, in its order."""
    if size == 1:
        return np.arange(boundaries[-1])
    own = chunks(boundaries, size, rank)
    return ranges([begin for _start, begin, _end in own], [end - begin for _start, begin, end in own])


def places_after_gathering(boundaries: Sequence[int], size: int) -> NDArray[np.int64]:
    """[W] Where each token of the whole stands when the ranks' tokens are laid one rank after the other."""
    order = np.concatenate([held_tokens(boundaries, size, rank) for rank in range(size)])
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
