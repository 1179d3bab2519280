"""A token-level loss and its gradients in one pass over the logits: three products a row instead of four.

Where a row's loss depends on its own log-prob only, the gradient is known as soon as the row's sums are, and backward
need not compute the logits again. Sequence-level ratios need the whole sequence first: they take `linear_logprob`.

The gradients by logits, in the weight's dtype, are kept for several chunks of rows, so that the products behind them
are few and large: each of the weight's reads and writes a float32 sum as large as it. They come from the fused product
where it runs (`exponentials`). Elsewhere, and where entropies have slopes, float32 logits exist for a chunk of rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.api import check_linear, linear_logprob
from egrc_kernels.linear_logprob.chunks import slices
from egrc_kernels.linear_logprob.exponentials import can_take_exponentials, row_exponentials
from egrc_kernels.linear_logprob.fused import MAX_ROWS
from egrc_kernels.linear_logprob.products import add_float32_product_, float32_product, scaled
from egrc_kernels.linear_logprob.sizes import KEPT, SHARED_BYTES, affordable_bytes, num_units, slice_size
from egrc_kernels.logprob.api import LogprobStats
from egrc_kernels.logprob.rows import row_gradients, row_partials
from egrc_kernels.logprob.shards import IGNORED, RowStats, Shard, row_stats

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
        chunk_bytes: of float32 logits, where there are any; of gradients by them up to `sizes.KEPT` times as many are
            kept, and a float32 sum as large as the weight until backward; equal on all ranks of the group. None: what
            `sizes` finds memory for, and with a group, whose ranks must take the same rows together, `SHARED_BYTES`.
        entropy_slopes_T: [T] float32; the loss gains each row's entropy times its slope. None: entropies do not count.

    Raises:
        ValueError: as `linear_logprob`.
    """
    if torch.compiler.is_compiling():
        options: dict[str, Any] = {"vocab_size": vocab_size, "group": group, "chunk_bytes": chunk_bytes}
        stats = linear_logprob(hidden_TH, weight_VH, targets_T, temperature=temperature, **options)
        return _loss_of(stats, targets_T, token_loss, entropy_slopes_T)
    check_linear(hidden_TH, weight_VH, targets_T, temperature)
    start_chunk = _start_with_logits
    if chunk_bytes is None and group is not None:
        chunk_bytes = SHARED_BYTES
    rows_kept, rows_at_a_time = rows_kept_and_at_a_time(hidden_TH, weight_VH, chunk_bytes)
    if entropy_slopes_T is None and can_take_exponentials(hidden_TH, weight_VH):
        start_chunk, rows_at_a_time = _start_with_exponentials, min(rows_kept, MAX_ROWS)
    how = (Shard.here(weight_VH.shape[0], vocab_size, group), temperature, group)
    rest = (token_loss, entropy_slopes_T, partial(start_chunk, how), rows_kept, rows_at_a_time)
    loss, *parts = _LinearTokenLoss.apply(hidden_TH, weight_VH, targets_T, *rest)
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


Finish = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor | None]
"""Of a chunk's slopes by log-probs and by entropies: makes its values the gradient by the logits, but for the factors
of its rows that are returned, float32 [C]; None: for none."""
How = tuple[Shard, float, ProcessGroup | None]


def _start_with_logits(
    how: How, values_CV: torch.Tensor, hidden_CH: torch.Tensor, weight_VH: torch.Tensor, targets_C: torch.Tensor
) -> tuple[RowStats, Finish]:
    """Statistics of a chunk whose logits are kept until it is finished."""
    shard, temperature, group = how
    place = (shard.start, shard.num_real, temperature)
    logits_CV = float32_product(hidden_CH, weight_VH.T)
    stats = row_stats(row_partials(logits_CV, targets_C, *place), targets_C, temperature, group)

    def finish(slopes_C: torch.Tensor, entropy_slopes_C: torch.Tensor | None) -> None:
        rest = (targets_C, stats.log_sum_T, slopes_C, stats.entropy_T, entropy_slopes_C, *place)
        row_gradients(logits_CV, values_CV, *rest)

    return stats, finish


def _start_with_exponentials(
    how: How, values_CV: torch.Tensor, hidden_CH: torch.Tensor, weight_VH: torch.Tensor, targets_C: torch.Tensor
) -> tuple[RowStats, Finish]:
    """Statistics of a chunk whose values are there already."""
    stats, per_slope_C = row_exponentials(values_CV, hidden_CH, weight_VH, targets_C, *how)
    return stats, lambda slopes_C, _entropies: slopes_C * per_slope_C


class _LinearTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_T: torch.Tensor,
        token_loss: TokenLoss,
        entropy_slopes_T: torch.Tensor | None,
        start_chunk: Callable[..., tuple[RowStats, Finish]],
        rows_kept: int,
        rows_at_a_time: int,
    ) -> tuple[torch.Tensor, ...]:
        loss = hidden_TH.new_zeros((), dtype=torch.float32)
        stats_3T = hidden_TH.new_empty(3, len(hidden_TH), dtype=torch.float32)
        gradients = _Gradients(hidden_TH, weight_VH)
        for kept in slices(len(hidden_TH), rows_kept):
            values_KV = _aligned_rows(kept.stop - kept.start, weight_VH)
            factors = []
            for rows in slices(kept.stop, rows_at_a_time, kept.start):
                values_CV = values_KV[rows.start - kept.start : rows.stop - kept.start]
                stats, finish = start_chunk(values_CV, hidden_TH[rows], weight_VH, targets_T[rows])
                stats_3T[:, rows] = torch.stack([stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T])
                chunk_loss, slopes_C = token_loss(stats.logprob_T, rows)
                loss += chunk_loss
                slopes_C = slopes_C.where(targets_T[rows] != IGNORED, 0.0)
                factors.append(finish(slopes_C, None if entropy_slopes_T is None else entropy_slopes_T[rows]))
                del finish, values_CV  # and what they hold, before the next are made
            gradients.add(kept, values_KV, factors)
            del values_KV
        if entropy_slopes_T is not None:
            loss += torch.dot(entropy_slopes_T, stats_3T[1])
        ctx.save_for_backward(*gradients.whole())
        ctx.dtype = weight_VH.dtype
        ctx.mark_non_differentiable(*(outputs := tuple(stats_3T.unbind())))
        ctx.set_materialize_grads(False)
        return loss, *outputs

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_TH, grad_weight_VH = ctx.saved_tensors
        scale = grads[0]
        if scale is None:
            return (None,) * 8
        # a scalar tensor does not widen the product; the weight's is rounded once, as it is scaled
        return grad_hidden_TH * scale, scaled(grad_weight_VH, scale, ctx.dtype), *([None] * 6)


def _aligned_rows(num_rows: int, weight_VH: torch.Tensor) -> torch.Tensor:
    """[K, V] of the weight's dtype without values; rows begin at whole vectors, whatever the number of columns."""
    num_columns = weight_VH.shape[0]
    return weight_VH.new_empty(num_rows, -(-num_columns // 16) * 16)[:, :num_columns]


class _Gradients:
    """By hidden states, in their dtype, and by the weight, as a float32 sum over the rows that were added."""

    def __init__(self, hidden_TH: torch.Tensor, weight_VH: torch.Tensor) -> None:
        self.hidden_TH, self.weight_VH = hidden_TH, weight_VH
        self.by_hidden_TH = torch.empty_like(hidden_TH)
        self.by_weight_VH: torch.Tensor | None = None

    def add(self, rows: slice, values_KV: torch.Tensor, factors: list[torch.Tensor | None]) -> None:
        """What follows from the rows' gradient by the logits: values times factors, one for each row if any."""
        hidden_KH = self.hidden_TH[rows]
        by_hidden_KH = float32_product(values_KV, self.weight_VH)
        given = [factor for factor in factors if factor is not None]
        if given:
            factors_K1 = torch.cat(given)[:, None]
            by_hidden_KH *= factors_K1
            hidden_KH = scaled(hidden_KH, factors_K1, hidden_KH.dtype)
        self.by_hidden_TH[rows] = by_hidden_KH
        if self.by_weight_VH is None:
            self.by_weight_VH = float32_product(values_KV.T, hidden_KH)
        else:
            add_float32_product_(self.by_weight_VH, values_KV.T, hidden_KH)

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of no rows the weight's is zero."""
        if self.by_weight_VH is None:
            self.by_weight_VH = torch.zeros_like(self.weight_VH, dtype=torch.float32)
        return self.by_hidden_TH, self.by_weight_VH
