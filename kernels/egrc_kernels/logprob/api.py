"""The public entry of the op: checks, the joining of shards, autograd."""

from typing import Any, NamedTuple

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.logprob.rows import row_gradients, row_gradients_, row_partials
from egrc_kernels.logprob.shards import IGNORED, Shard, row_stats

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class LogprobStats(NamedTuple):
    """Float32 [T] each, equal on all ranks of the group. `entropy_at_one_T` has no gradient."""

    logprob_T: torch.Tensor
    """Of the targets, under softmax(logits / temperature); zero where the target is -100."""
    entropy_T: torch.Tensor
    """At the temperature, nats."""
    entropy_at_one_T: torch.Tensor
    """At temperature 1, nats."""


def logprob_entropy(
    logits_TV: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
    overwrites_logits: bool = False,
) -> LogprobStats:
    """Log-prob of each target and entropy of each row under softmax(logits / temperature).

    Args:
        logits_TV: [T, V / group size], float32, bfloat16 or float16, rows contiguous; this rank's shard.
        targets_T: [T] int64, global vocabulary ids, or -100 for a row that has none.
        temperature: positive divisor of the logits.
        vocab_size: columns from this global index on are padding and take no part; None: every column is real.
        group: tensor-parallel group that shares the vocabulary; None: the whole vocabulary is here.
        overwrites_logits: backward writes the gradient into the logits' own memory; nobody else may read them then.

    Raises:
        ValueError: wrong rank, layout, dtype or device, or a temperature that is not positive.
    """
    if logits_TV.dim() != 2 or targets_T.shape != logits_TV.shape[:1]:
        raise ValueError(
            f"logits_TV must be [T, V] and targets_T [T], got {tuple(logits_TV.shape)} and {tuple(targets_T.shape)}"
        )
    if logits_TV.dtype not in DTYPES:
        raise ValueError(f"logits_TV must be float32, bfloat16 or float16, got {logits_TV.dtype}")
    if logits_TV.stride(1) != 1:
        raise ValueError(f"logits_TV must have contiguous rows, got strides {logits_TV.stride()}; call contiguous()")
    check_targets(targets_T, logits_TV.device, temperature)
    shard = Shard.here(logits_TV.shape[1], vocab_size, group)
    return LogprobStats(*_LogprobEntropy.apply(logits_TV, targets_T, temperature, shard, group, overwrites_logits))


def check_targets(targets_T: torch.Tensor, device: torch.device, temperature: float) -> None:
    """Raise ValueError for what both log-prob ops refuse."""
    if targets_T.dtype != torch.int64 or targets_T.device != device:
        raise ValueError(f"targets_T must be int64 on {device}, got {targets_T.dtype} on {targets_T.device}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: torch.Tensor,
        targets_T: torch.Tensor,
        temperature: float,
        shard: Shard,
        group: ProcessGroup | None,
        overwrites_logits: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        partials_6T = row_partials(logits_TV, targets_T, shard.start, shard.num_real, temperature)
        stats = row_stats(partials_6T, targets_T, temperature, group)
        ctx.save_for_backward(logits_TV, targets_T, stats.log_sum_T, stats.entropy_T)
        ctx.temperature, ctx.shard, ctx.overwrites_logits = temperature, shard, overwrites_logits
        ctx.mark_non_differentiable(stats.entropy_at_one_T)
        ctx.set_materialize_grads(False)
        return stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        logits_TV, targets_T, log_sum_T, entropy_T = ctx.saved_tensors
        grad_logprob_T, grad_entropy_T = upstream(grads, targets_T)
        place = (ctx.shard.start, ctx.shard.num_real, ctx.temperature)
        rest = (targets_T, log_sum_T, grad_logprob_T, entropy_T, grad_entropy_T, *place)
        if ctx.overwrites_logits:
            gradient_TV = logits_TV.detach()
            row_gradients_(gradient_TV, *rest)
        else:
            gradient_TV = torch.empty(logits_TV.shape, dtype=logits_TV.dtype, device=logits_TV.device)
            row_gradients(logits_TV, gradient_TV, *rest)
        return gradient_TV, None, None, None, None, None


def upstream(
    grads: tuple[torch.Tensor | None, ...], targets_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradients of log-prob and entropy; rows without a target have none of the log-prob."""
    grad_logprob_T, grad_entropy_T = grads[:2]
    if grad_logprob_T is None:
        grad_logprob_T = torch.zeros_like(targets_T, dtype=torch.float32)
    grad_logprob_T = grad_logprob_T.contiguous().where(targets_T != IGNORED, 0.0)
    return grad_logprob_T, None if grad_entropy_T is None else grad_entropy_T.contiguous()
