"""A token-level loss and its gradients in one pass over the logits: three products a row instead of four.

Where a row's loss depends on its own log-prob only, the gradient is known as soon as the row's sums are, and backward
need not compute the logits again. Sequence-level ratios need the whole sequence first: they take `linear_logprob`.

Float32 logits exist for a chunk of rows; the gradients by them, in the weight's dtype, are kept for several chunks, so
that the products behind them are few and large: each of the weight's reads and writes a float32 sum as large as it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.api import check_linear, linear_logprob
from egrc_kernels.linear_logprob.chunks import slices
from egrc_kernels.linear_logprob.products import add_float32_product_, float32_product, scaled
from egrc_kernels.linear_logprob.sizes import KEPT, affordable_bytes, num_units, slice_size
from egrc_kernels.logprob.api import LogprobStats
from egrc_kernels.logprob.rows import row_gradients, row_partials
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
    entropy_slopes_T: torch.Tensor | None = None,
) -> tuple[torch.Tensor, LogprobStats]:
    """The sum of a token-level loss, with gradient, and the statistics of `linear_logprob`, without.

    Code that torch compiles takes `linear_logprob`, which is one op each way, instead of the pass that is made here.

    Args:
        hidden_TH: and the following as for `linear_logprob`.
        token_loss: called on each chunk of rows in order, in compiled code once; equal on all ranks of the group.
        chunk_bytes: of float32 logits; beside them lie up to `sizes.KEPT` times as many of gradients by them, and a
            float32 sum as large as the weight stays until backward. None: what `sizes` finds memory for.
        entropy_slopes_T: [T] float32; the loss gains each row's entropy times its slope. None: entropies do not count.

    Raises:
        ValueError: as `linear_logprob`.
    """
    if torch.compiler.is_compiling():
        how: dict[str, Any] = {"vocab_size": vocab_size, "group": group, "chunk_bytes": chunk_bytes}
        stats = linear_logprob(hidden_TH, weight_VH, targets_T, temperature=temperature, **how)
        return _loss_of(stats, targets_T, token_loss, entropy_slopes_T)
    check_linear(hidden_TH, weight_VH, targets_T, temperature)
    shard = Shard.here(weight_VH.shape[0], vocab_size, group)
    rest = (entropy_slopes_T, temperature, shard, group, *rows_kept_and_at_a_time(hidden_TH, weight_VH, chunk_bytes))
    loss, *parts = _LinearTokenLoss.apply(hidden_TH, weight_VH, targets_T, token_loss, *rest)
    return loss, LogprobStats(*parts)


def _loss_of(
    stats: LogprobStats, targets_T: torch.Tensor, token_loss: TokenLoss, entropy_slopes_T: torch.Tensor | None
) -> tuple[torch.Tensor, LogprobStats]:
    """The loss of statistics that have gradients: they get the loss's slopes, and are returned without."""
    bare = LogprobStats(*(part.detach() for part in stats))
    loss, slopes_T = token_loss(bare.logprob_T, slice(0, len(targets_T)))
    loss = _Sloped.apply(loss, stats.logprob_T, slopes_T)
    if entropy_slopes_T is not None:
        loss = loss + torch.dot(entropy_slopes_T, stats.entropy_T)
    return loss, bare


class _Sloped(torch.autograd.Function):
    """A number whose derivative by a vector is known."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, vector_T: torch.Tensor, slopes_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slopes_T)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes_T,) = ctx.saved_tensors
        return None, grads[0] * slopes_T, None


def rows_kept_and_at_a_time(
    hidden_TH: torch.Tensor, weight_VH: torch.Tensor, chunk_bytes: int | None
) -> tuple[int, int]:
    """Rows whose gradients by logits are kept, and rows whose logits exist, at a time."""
    (num_rows, hidden_size), num_columns = hidden_TH.shape, weight_VH.shape[0]
    size, units = chunk_bytes or affordable_bytes(hidden_TH, KEPT), num_units(hidden_TH)
    most_kept = KEPT * size // (weight_VH.element_size() * num_columns)
    kept = slice_size(num_rows, most_kept, hidden_size, units)
    return kept, slice_size(kept, size // (4 * num_columns), num_columns, units)


class _LinearTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_T: torch.Tensor,
        token_loss: TokenLoss,
        entropy_slopes_T: torch.Tensor | None,
        temperature: float,
        shard: Shard,
        group: ProcessGroup | None,
        rows_kept: int,
        rows_at_a_time: int,
    ) -> tuple[torch.Tensor, ...]:
        loss = hidden_TH.new_zeros((), dtype=torch.float32)
        stats_3T = hidden_TH.new_empty(3, len(hidden_TH), dtype=torch.float32)
        grad_hidden_TH = torch.empty_like(hidden_TH)
        grad_weight_VH: torch.Tensor | None = None
        place = (shard.start, shard.num_real, temperature)
        for kept in slices(len(hidden_TH), rows_kept):
            gradient_KV = weight_VH.new_empty(kept.stop - kept.start, weight_VH.shape[0])
            for rows in slices(kept.stop, rows_at_a_time, kept.start):
                logits_CV = float32_product(hidden_TH[rows], weight_VH.T)
                stats = row_stats(row_partials(logits_CV, targets_T[rows], *place), targets_T[rows], temperature, group)
                stats_3T[:, rows] = torch.stack([stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T])
                chunk_loss, slopes_C = token_loss(stats.logprob_T, rows)
                loss += chunk_loss
                slopes_C = slopes_C.where(targets_T[rows] != IGNORED, 0.0)
                gradient_CV = gradient_KV[rows.start - kept.start : rows.stop - kept.start]
                entropy_slopes_C = None if entropy_slopes_T is None else entropy_slopes_T[rows]
                if entropy_slopes_C is not None:
                    loss += torch.dot(entropy_slopes_C, stats.entropy_T)
                rest = (targets_T[rows], stats.log_sum_T, slopes_C, stats.entropy_T, entropy_slopes_C, *place)
                row_gradients(logits_CV, gradient_CV, *rest)
                del logits_CV, gradient_CV  # before the next are made
            grad_hidden_TH[kept] = float32_product(gradient_KV, weight_VH)
            if grad_weight_VH is None:
                grad_weight_VH = float32_product(gradient_KV.T, hidden_TH[kept])
            else:
                add_float32_product_(grad_weight_VH, gradient_KV.T, hidden_TH[kept])
            del gradient_KV
        if grad_weight_VH is None:
            grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden_TH, grad_weight_VH)
        ctx.dtype = weight_VH.dtype
        ctx.mark_non_differentiable(*(outputs := tuple(stats_3T.unbind())))
        ctx.set_materialize_grads(False)
        return loss, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_TH, grad_weight_VH = ctx.saved_tensors
        scale = grads[0]
        if scale is None:
            return (None,) * 10
        # a scalar tensor does not widen the product; the weight's is rounded once, as it is scaled
        return grad_hidden_TH * scale, scaled(grad_weight_VH, scale, ctx.dtype), *([None] * 8)
