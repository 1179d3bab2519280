"""Logits of a part of rows and columns at a time, forward and backward: the driver around the row primitives.

Forward takes rows, for a row's sums need all columns. Backward knows the sums, so it takes columns: each slice of the
weight's gradient is then written once, and only the small gradient of the hidden states is summed, in float32.
"""

from collections.abc import Iterator
from typing import Any

import torch

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
    partials_6T = hidden_TH.new_empty(6, hidden_TH.shape[0], dtype=torch.float32)
    for rows in slices(hidden_TH.shape[0], chunk_bytes // (4 * weight_VH.shape[0])):
        logits_CV = product_in_float32(hidden_TH[rows], weight_VH.T)
        partials_6T[:, rows] = row_partials(logits_CV, targets_T[rows], shard.start, shard.num_real, temperature)
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by hidden states (this shard's share) and weight, in their dtypes, from logits computed again."""
    grad_hidden_TH: torch.Tensor | None = None
    grad_weight_VH = torch.empty_like(weight_VH)
    for columns in slices(weight_VH.shape[0], chunk_bytes // (4 * max(1, hidden_TH.shape[0])), multiple=128):
        part_CH = weight_VH[columns]
        start, num_real = shard.start + columns.start, min(len(part_CH), max(0, shard.num_real - columns.start))
        logits_TC = product_in_float32(hidden_TH, part_CH.T)
        rest = (grad_logprob_T, entropy_T, grad_entropy_T, start, num_real, temperature)
        gradient_TC = gradients_of_logits(logits_TC, targets_T, log_sum_T, *rest, dtype=weight_VH.dtype)
        del logits_TC
        grad_hidden_TH = add_product_in_float32(grad_hidden_TH, gradient_TC, part_CH)
        grad_weight_VH[columns] = gradient_TC.T @ hidden_TH
    assert grad_hidden_TH is not None
    return grad_hidden_TH.to(hidden_TH.dtype), grad_weight_VH


def gradients_of_logits(logits_TC: torch.Tensor, *rest: Any, dtype: torch.dtype) -> torch.Tensor:
    """See `rows.row_gradients_`: in the logits' place where they have the dtype already, else written in it at once."""
    if logits_TC.dtype != dtype:
        return row_gradients(logits_TC, *rest, dtype)
    row_gradients_(logits_TC, *rest)
    return logits_TC


def product_in_float32(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """a @ b with a float32 result: 16-bit logits would put 2 % of noise on a policy ratio."""
    if a_MK.dtype == torch.float32:
        return a_MK @ b_KN
    if a_MK.is_cuda:
        return torch.mm(a_MK, b_KN, out_dtype=torch.float32)
    return a_MK.float() @ b_KN.float()


def add_product_in_float32(sum_MN: torch.Tensor | None, a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """sum + a @ b in float32; None: the sum begins."""
    if sum_MN is None:
        return product_in_float32(a_MK, b_KN)
    if a_MK.dtype == torch.float32:
        return sum_MN.addmm_(a_MK, b_KN)
    if a_MK.is_cuda:
        return torch.addmm(sum_MN, a_MK, b_KN, out_dtype=torch.float32, out=sum_MN)
    return sum_MN.addmm_(a_MK.float(), b_KN.float())


def slices(total: int, size: int, multiple: int = 1) -> Iterator[slice]:
    """0 .. total in pieces of at most `size`, which is rounded down to a multiple where it can be."""
    size = max(1, size if size < multiple else size - size % multiple)
    for start in range(0, total, size):
        yield slice(start, min(total, start + size))
