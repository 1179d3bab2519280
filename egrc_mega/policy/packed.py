"""How the sequences of a micro-batch lie end to end: made once, and read by all layers and by recomputation.

Whatever is needed of it on the host stays on the host, and whatever is needed on the device is there: no layer waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from numpy.typing import ArrayLike, NDArray

from egrc_mega.policy.context import TokenSplit, chunks, places_after_gathering, ranges

WHOLE = TokenSplit()

Part = tuple[int, int, int]
"""(start, begin, end): queries begin..end of a sequence that starts at `start`; they see keys start..end."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What this rank's queries attend to, part by part; the device tensors are int32 or, for places, int64."""

    spans: tuple[Part, ...]
    cu_queries: torch.Tensor
    """[parts + 1] Where the parts begin in this rank's queries."""
    cu_keys: torch.Tensor
    """[parts + 1] The same in keys laid out part by part."""
    max_queries: int
    max_keys: int
    places_W: torch.Tensor | None = None
    """With context parallelism: where each token of the whole stands once all ranks' keys are gathered."""
    key_places: torch.Tensor | None = None
    """With context parallelism: the keys of each part, one part after the other; parts of a sequence share keys."""


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron's description of packed sequences, and what our own attention needs beside it."""

    parts: Parts | None = None


def pack(boundaries: Sequence[int], device: torch.device, split: TokenSplit = WHOLE) -> PackedSequences:
    """The description of sequences at `boundaries`, which start with 0 and end with the number of tokens."""
    cu_seqlens = on_device(np.asarray(boundaries, np.int32), device)
    longest = max(end - start for start, end in pairwise(boundaries))
    return PackedSequences(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        parts=_parts(boundaries, cu_seqlens, longest, split),
    )


def _parts(boundaries: Sequence[int], cu_seqlens: torch.Tensor, longest: int, split: TokenSplit) -> Parts:
    if split.context_size == 1:
        spans = tuple((start, start, end) for start, end in pairwise(boundaries))
        return Parts(spans, cu_seqlens, cu_seqlens, longest, longest)
    spans = tuple(chunks(boundaries, split.context_size, split.context_rank))
    num_queries, num_keys = [e - b for _s, b, e in spans], [e - s for s, _b, e in spans]

    def there(values: ArrayLike, dtype: type = np.int32) -> torch.Tensor:
        return on_device(np.asarray(values, dtype), cu_seqlens.device)

    return Parts(
        spans=spans,
        cu_queries=there([0, *accumulate(num_queries)]),
        cu_keys=there([0, *accumulate(num_keys)]),
        max_queries=max(num_queries),
        max_keys=max(num_keys),
        places_W=there(places_after_gathering(boundaries, split.context_size), np.int64),
        key_places=there(ranges([start for start, _begin, _end in spans], num_keys), np.int64),
    )


def on_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy there, or on a CPU the array itself. The host does not wait: on the way the copy has memory of its own."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
