"""The public entry of the op: checks, the choice of a forward, autograd."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.ops import linear_gradients, linear_partials
from egrc_kernels.logprob.api import DTYPES, LogprobStats, check_targets, upstream
from egrc_kernels.logprob.shards import Shard, row_stats


def linear_logprob(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
    chunk_bytes: int | None = None,
    fuses_gradients: bool = False,
) -> LogprobStats:
    """Log-prob of each target and entropy of each row under softmax(hidden @ weight.T / temperature).

    At most `chunk_bytes` of float32 logits are in memory; backward computes them again. Without gradient, a fused
    kernel takes the place of the chunks where it can (`fused.can_fuse`): a row's bits then do not depend on its
    company. With one, the sums are of products like backward's: a token that is nearly sure has a gradient smaller than
    what two kinds of products differ by.

    Args:
        hidden_TH: [T, H], float32, bfloat16 or float16.
        weight_VH: [V / group size, H] of the same dtype; this rank's shard of the vocabulary.
        targets_T: [T] int64, global vocabulary ids, or -100 for a row that has none.
        temperature: positive divisor of the logits.
        vocab_size: rows of the weight from this global index on are padding and take no part; None: every row is real.
        group: tensor-parallel group that shares the vocabulary; None: the whole vocabulary is here. The gradient of
            `hidden_TH` is this rank's share; megatron's `copy_to_tensor_model_parallel_region` adds the shares.
        chunk_bytes: of float32 logits, beside which lie as many of the dtype; None: what `sizes` finds memory for.
        fuses_gradients: the fused kernel with gradients too, and backward one that makes the gradient by the logits
            inside its product. No logits are in memory, a third to a half of the bytes move, and a row that is scored
            and then trained on has the same bits both times.

    Raises:
        ValueError: wrong shape, dtype or device, or a temperature that is not positive.
    """
    check_linear(hidden_TH, weight_VH, targets_T, temperature)
    shard = Shard.here(weight_VH.shape[0], vocab_size, group)
    needs_gradient = torch.is_grad_enabled() and (hidden_TH.requires_grad or weight_VH.requires_grad)
    how = How(temperature, shard, group, chunk_bytes, fuses_gradients or not needs_gradient)
    return LogprobStats(*_LinearLogprob.apply(hidden_TH, weight_VH, targets_T, how))


def check_linear(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor, temperature: float) -> None:
    """Raise ValueError for what the ops on hidden states refuse."""
    if hidden_TH.dim() != 2 or weight_VH.dim() != 2 or hidden_TH.shape[1] != weight_VH.shape[1]:
        shapes = f"{tuple(hidden_TH.shape)} and {tuple(weight_VH.shape)}"
        raise ValueError(f"hidden_TH must be [T, H] and weight_VH [V, H], got {shapes}")
    if targets_T.shape != hidden_TH.shape[:1] or targets_T.dtype != torch.int64:
        raise ValueError(f"targets_T must be int64 [T], got {targets_T.dtype} {tuple(targets_T.shape)}")
    if hidden_TH.dtype != weight_VH.dtype or hidden_TH.dtype not in DTYPES:
        raise ValueError(f"hidden_TH and weight_VH must share a dtype, got {hidden_TH.dtype} and {weight_VH.dtype}")
    if not hidden_TH.device == weight_VH.device == targets_T.device:
        raise ValueError(f"devices differ: {hidden_TH.device}, {weight_VH.device}, {targets_T.device}")
    check_targets(targets_T, hidden_TH.device, temperature)


@dataclass(frozen=True, slots=True)
class How:
    """What is the same for every row."""

    temperature: float
    shard: Shard
    group: ProcessGroup | None
    chunk_bytes: int | None
    may_fuse: bool


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor, how: How
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        place = (how.shard.start, how.shard.num_real, how.temperature, how.chunk_bytes)
        partials_6T = linear_partials(hidden_TH, weight_VH, targets_T, *place, how.may_fuse)
        stats = row_stats(partials_6T, targets_T, how.temperature, how.group)
        ctx.save_for_backward(hidden_TH, weight_VH, targets_T, stats.log_sum_T, stats.entropy_T)
        ctx.how = how
        ctx.mark_non_differentiable(stats.entropy_at_one_T)
        ctx.set_materialize_grads(False)
        return stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_TH, weight_VH, targets_T, log_sum_T, entropy_T = ctx.saved_tensors
        grad_logprob_T, grad_entropy_T = upstream(grads, targets_T)
        how: How = ctx.how
        place = (how.shard.start, how.shard.num_real, how.temperature, how.chunk_bytes)
        rest = (log_sum_T, grad_logprob_T, entropy_T, grad_entropy_T, *place)
        return *linear_gradients(hidden_TH, weight_VH, targets_T, *rest, how.may_fuse), None, None
