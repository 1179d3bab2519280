"""When the fused products can be taken, forward and backward, and with which tiles."""

from typing import TYPE_CHECKING

import torch

from egrc_kernels.logprob.shards import Shard
from egrc_kernels.registry import is_interpreting, uses_triton

if TYPE_CHECKING:  # a machine without a GPU may have no Triton
    from egrc_kernels.linear_logprob.triton import Tiles

MAX_ROWS = 8192
"""Rows at a time: bounds the tiles' partials at 24 bytes a row and tile."""


def can_fuse(hidden_TH: torch.Tensor, weight_VH: torch.Tensor) -> bool:
    """Kernels run here, and descriptors can describe the tensors: contiguous, rows a multiple of 16 bytes.

    The tiles are NVIDIA's: on AMD the chunks stay.
    """
    if torch.version.hip is not None or not uses_triton(hidden_TH):
        return False
    if not (hidden_TH.is_contiguous() and weight_VH.is_contiguous()):
        return False
    if hidden_TH.dtype == torch.float32 and hidden_TH.is_cuda:
        return False  # the units would round to TF32
    return len(hidden_TH) > 0 and hidden_TH.shape[1] * hidden_TH.element_size() % 16 == 0


def fused_partials(
    hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor, shard: Shard, temperature: float
) -> torch.Tensor:
    """[6, T], see `logprob.reference.row_partials`."""
    parts = []
    for first in range(0, len(hidden_TH), MAX_ROWS):
        rows = slice(first, first + MAX_ROWS)
        parts.append(_tiles(hidden_TH[rows], weight_VH, targets_T[rows], shard.start, shard.num_real, temperature))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def fused_gradients(
    hidden_TH: torch.Tensor,
    weight_CH: torch.Tensor,
    targets_T: torch.Tensor,
    log_sum_T: torch.Tensor,
    grad_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
) -> torch.Tensor:
    """[T, C] gradient by the logits in the weight's dtype, see `logprob.reference.row_gradients_`."""
    from egrc_kernels.linear_logprob import triton

    per_row = (targets_T, log_sum_T, grad_logprob_T, entropy_T, grad_entropy_T)
    rest = (*per_row, start, num_real, temperature)
    tiles, num_programs = tiles_and_programs(hidden_TH)
    return triton.fused_gradients(hidden_TH, weight_CH, *rest, tiles, num_programs=num_programs)


def tiles_and_programs(tensor: torch.Tensor) -> "tuple[Tiles, int]":
    """Shape of the tiles, and how many programs take them, on the tensor's device."""
    from egrc_kernels.linear_logprob import triton

    if is_interpreting():
        return triton.INTERPRETED, 2
    properties = torch.cuda.get_device_properties(tensor.device)
    return triton.TILES.get(properties.major, triton.TILES[8]), properties.multi_processor_count


@torch.library.custom_op("egrc::fused_linear_partials", mutates_args=())
def _tiles(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    from egrc_kernels.linear_logprob import triton

    tiles, num_programs = tiles_and_programs(hidden)
    rest = (start, num_real, temperature, tiles)
    return triton.fused_partials(hidden, weight, targets, *rest, num_programs=num_programs)


@_tiles.register_fake
def _(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    return hidden.new_empty(6, hidden.shape[0], dtype=torch.float32)
