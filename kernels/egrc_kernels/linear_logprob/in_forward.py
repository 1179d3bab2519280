"""A token-level loss and its gradients in one pass over the logits: three products a row instead of four.

Where a row's loss depends on its own log-prob only, the gradient is known as soon as the row's sums are, and backward
need not compute the logits again. Sequence-level ratios need the whole sequence first: they take `linear_logprob`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.api import check_linear, default_chunk_bytes
from egrc_kernels.linear_logprob.chunks import (
    add_product_in_float32,
    gradients_of_logits,
    product_in_float32,
    slices,
)
from egrc_kernels.logprob.api import LogprobStats
from egrc_kernels.logprob.rows import row_partials
from egrc_kernels.logprob.shards import IGNORED, Shard, row_stats

TokenLoss = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
"""Of [C] log-probs and their place among the rows: their loss, and its derivative by each, float32 [C]."""


def linear_token_loss(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    token_loss: TokenLoss,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
    chunk_bytes: int | None = None,
) -> tuple[torch.Tensor, LogprobStats]:
    """The sum of a token-level loss, with gradient, and the statistics of `linear_logprob`, without.

    Args:
        hidden_TH: and the following as for `linear_logprob`.
        token_loss: called on each chunk of rows in order; equal on all ranks of the group.

    Raises:
        ValueError: as `linear_logprob`.
    """
    check_linear(hidden_TH, weight_VH, targets_T, temperature)
    shard = Shard.here(weight_VH.shape[0], vocab_size, group)
    size = chunk_bytes or default_chunk_bytes(hidden_TH)
    loss, *stats = _LinearTokenLoss.apply(hidden_TH, weight_VH, targets_T, token_loss, temperature, shard, group, size)
    return loss, LogprobStats(*stats)


class _LinearTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_T: torch.Tensor,
        token_loss: TokenLoss,
        temperature: float,
        shard: Shard,
        group: ProcessGroup | None,
        chunk_bytes: int,
    ) -> tuple[torch.Tensor, ...]:
        loss = hidden_TH.new_zeros((), dtype=torch.float32)
        stats_3T = hidden_TH.new_empty(3, len(hidden_TH), dtype=torch.float32)
        grad_hidden_TH = torch.empty_like(hidden_TH)
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
        for rows in slices(len(hidden_TH), chunk_bytes // (4 * weight_VH.shape[0])):
            logits_CV = product_in_float32(hidden_TH[rows], weight_VH.T)
            place = (shard.start, shard.num_real, temperature)
            stats = row_stats(row_partials(logits_CV, targets_T[rows], *place), targets_T[rows], temperature, group)
            stats_3T[:, rows] = torch.stack([stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T])
            chunk_loss, slopes_C = token_loss(stats.logprob_T, rows)
            loss += chunk_loss
            slopes_C = slopes_C.where(targets_T[rows] != IGNORED, 0.0)
            rest = (targets_T[rows], stats.log_sum_T, slopes_C, None, None, *place)
            gradient_CV = gradients_of_logits(logits_CV, *rest, dtype=weight_VH.dtype)
            grad_hidden_TH[rows] = product_in_float32(gradient_CV, weight_VH)
            add_product_in_float32(grad_weight_VH, gradient_CV.T, hidden_TH[rows])
        ctx.save_for_backward(grad_hidden_TH, grad_weight_VH.to(weight_VH.dtype))
        ctx.mark_non_differentiable(*(outputs := tuple(stats_3T.unbind())))
        return loss, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_TH, grad_weight_VH = ctx.saved_tensors
        scale = grads[0]
        # a scalar tensor does not widen the product
        return grad_hidden_TH * scale, grad_weight_VH * scale, *([None] * 6)
