"""Logits of a part of rows and columns at a time, forward and backward: the driver around the row primitives.

Forward takes rows, for a row's sums need all columns. Backward knows the sums, so it takes columns: each slice of the
weight's gradient is then written once, and only the small gradient of the hidden states is summed, in float32. Where
the product that computes the logits again makes their gradient itself, the logits are not in memory at all.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from egrc_kernels.linear_logprob.fused import fused_gradients
from egrc_kernels.linear_logprob.products import add_product_in_float32, product_in_float32
from egrc_kernels.linear_logprob.sizes import num_units, slice_size
from egrc_kernels.logprob.rows import row_gradients, row_gradients_, row_partials
from egrc_kernels.logprob.shards import Shard


def partials_by_rows(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    shard: Shard,
    temperature: float,
    chunk_bytes: int,
) -> torch.Tensor:
    """[6, T], see `logprob.reference.row_partials`; at most `chunk_bytes` of float32 logits exist at a time."""
    (num_rows, _), num_columns = hidden_TH.shape, weight_VH.shape[0]
    partials_6T = hidden_TH.new_empty(6, num_rows, dtype=torch.float32)
    most = chunk_bytes // (4 * num_columns)
    for rows in slices(num_rows, slice_size(num_rows, most, num_columns, num_units(hidden_TH))):
        logits_CV = product_in_float32(hidden_TH[rows], weight_VH.T)
        partials_6T[:, rows] = row_partials(logits_CV, targets_T[rows], shard.start, shard.num_real, temperature)
        del logits_CV  # before the next are made
    return partials_6T


def gradients_by_columns(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    log_sum_T: torch.Tensor,
    grad_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    shard: Shard,
    temperature: float,
    chunk_bytes: int,
    is_fused: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by hidden states (this shard's share) and weight, in their dtypes, from logits computed again.

    Args:
        is_fused: by the product of `fused`, instead of one that writes logits and a pass over them.
    """
    grad_hidden_TH: torch.Tensor | None = None
    grad_weight_VH = torch.empty_like(weight_VH)
    gradients_of_logits: Callable[..., torch.Tensor] = fused_gradients if is_fused else _gradients_of_logits
    for columns in _column_slices(hidden_TH, weight_VH, chunk_bytes, is_fused):
        part_CH = weight_VH[columns]
        start, num_real = shard.start + columns.start, min(len(part_CH), max(0, shard.num_real - columns.start))
        rest = (log_sum_T, grad_logprob_T, entropy_T, grad_entropy_T, start, num_real, temperature)
        gradient_TC = gradients_of_logits(hidden_TH, part_CH, targets_T, *rest)
        grad_hidden_TH = add_product_in_float32(grad_hidden_TH, gradient_TC, part_CH)
        torch.mm(gradient_TC.T, hidden_TH, out=grad_weight_VH[columns])
        del gradient_TC
    assert grad_hidden_TH is not None
    return grad_hidden_TH.to(hidden_TH.dtype), grad_weight_VH


def _column_slices(
    hidden_TH: torch.Tensor, weight_VH: torch.Tensor, chunk_bytes: int, is_fused: bool
) -> Iterator[slice]:
    """The tiles that count are those of the weight's gradient.

    Fused, the gradient by the logits has the memory to itself that else it shares with logits twice as large.
    """
    (num_rows, hidden_size), num_columns = hidden_TH.shape, weight_VH.shape[0]
    size = 1.5 * chunk_bytes / weight_VH.element_size() if is_fused else chunk_bytes / 4
    most = int(size) // max(1, num_rows)
    most = most if most < 128 else most - most % 128
    return slices(num_columns, slice_size(num_columns, most, hidden_size, num_units(hidden_TH)))


def _gradients_of_logits(hidden_TH: torch.Tensor, weight_CH: torch.Tensor, *rest: Any) -> torch.Tensor:
    """See `rows.row_gradients_`: in the logits' place where they have the dtype already, else written in it at once."""
    logits_TC = product_in_float32(hidden_TH, weight_CH.T)
    if logits_TC.dtype == weight_CH.dtype:
        row_gradients_(logits_TC, *rest)
        return logits_TC
    gradient_TC = torch.empty_like(logits_TC, dtype=weight_CH.dtype)
    row_gradients(logits_TC, gradient_TC, *rest)
    return gradient_TC


def slices(stop: int, size: int, start: int = 0) -> Iterator[slice]:
    """The range start .. stop in pieces of at most `size`."""
    for first in range(start, stop, size):
        yield slice(first, min(stop, first + size))
