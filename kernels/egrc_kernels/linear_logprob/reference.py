"""Plain PyTorch, a chunk of rows at a time: the truth, and the path on a CPU. README.md has the maths."""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

PADDING = -1e30
"""Logit of a padding column: its exponential is zero, and zero times it is zero, which it is not for infinity."""


class LinearLogprob(torch.autograd.Function):
    """See `egrc_kernels.linear_logprob.linear_logprob`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_T: torch.Tensor,
        temperature: float,
        vocab_size: int | None,
        group: ProcessGroup | None,
        chunk_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (logprob_T, entropy_T, entropy_at_one_T) in float32."""
        start = 0 if group is None else weight_VH.shape[0] * dist.get_rank(group)
        shard = _Shard(weight_VH, start, vocab_size)
        max_T = hidden_TH.new_empty(hidden_TH.shape[0], dtype=torch.float32)
        sums_5T = max_T.new_empty(5, max_T.shape[0])
        for rows in _chunks(len(max_T), chunk_rows):
            max_T[rows], sums_5T[:, rows] = _row_sums(
                shard.logits(hidden_TH[rows]), shard, targets_T[rows], temperature
            )
        if group is not None:
            max_T, sums_5T = _merge(max_T, sums_5T, temperature, group)
        target_T, total_T, weighted_T, total_one_T, weighted_one_T = sums_5T
        log_total_T = total_T.log()
        ctx.save_for_backward(hidden_TH, weight_VH, targets_T, max_T / temperature + log_total_T)
        ctx.shard_arguments, ctx.temperature, ctx.chunk_rows = (start, vocab_size), temperature, chunk_rows
        entropy_T = log_total_T - weighted_T / total_T
        entropy_at_one_T = total_one_T.log() - weighted_one_T / total_one_T
        ctx.mark_non_differentiable(entropy_T, entropy_at_one_T)
        return (target_T - max_T) / temperature - log_total_T, entropy_T, entropy_at_one_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the log-prob by hidden states (this rank's share) and weight; float32 sums over chunks."""
        hidden_TH, weight_VH, targets_T, log_sum_T = ctx.saved_tensors
        shard = _Shard(weight_VH, *ctx.shard_arguments)
        scale_T = grads[0] / ctx.temperature
        grad_hidden_TH = torch.empty_like(hidden_TH)
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
        for rows in _chunks(len(log_sum_T), ctx.chunk_rows):
            grad_CV = shard.logits(hidden_TH[rows]).div_(ctx.temperature).sub_(log_sum_T[rows, None]).exp_()
            grad_CV.mul_(-scale_T[rows, None])
            index_C1, is_here_C = shard.find(targets_T[rows])
            grad_CV.scatter_add_(1, index_C1, (scale_T[rows] * is_here_C)[:, None])
            grad_CV = grad_CV.to(weight_VH.dtype)
            grad_hidden_TH[rows] = grad_CV @ weight_VH
            if weight_VH.dtype == torch.float32:
                grad_weight_VH.addmm_(grad_CV.T, hidden_TH[rows])
            else:
                grad_weight_VH += grad_CV.T @ hidden_TH[rows]
        return grad_hidden_TH, grad_weight_VH.to(weight_VH.dtype), None, None, None, None, None


class _Shard:
    """This rank's part of the vocabulary."""

    def __init__(self, weight_VH: torch.Tensor, start: int, vocab_size: int | None) -> None:
        self.weight_VH, self.start = weight_VH, start
        columns = weight_VH.shape[0]
        self.num_real = columns if vocab_size is None else min(columns, max(0, vocab_size - start))

    def logits(self, hidden_CH: torch.Tensor) -> torch.Tensor:
        """Float32 [C, V], padding columns far below everything."""
        logits_CV = (hidden_CH @ self.weight_VH.T).float()
        logits_CV[:, self.num_real :] = PADDING
        return logits_CV

    def find(self, targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Column of each target ([C, 1], clamped) and whether it is here."""
        local_C = targets_C - self.start
        columns = self.weight_VH.shape[0]
        return local_C.clamp(0, columns - 1)[:, None], (local_C >= 0) & (local_C < columns)


def _row_sums(
    logits_CV: torch.Tensor, shard: _Shard, targets_C: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """m of each row, and [5, C]: target's logit, then sums of e and e d at the temperature and at one; d = l - m."""
    index_C1, is_here_C = shard.find(targets_C)
    target_C = logits_CV.gather(1, index_C1)[:, 0] * is_here_C
    max_C = logits_CV.max(dim=1).values
    d_CV = logits_CV.sub_(max_C[:, None])
    exp_CV = (d_CV / temperature).exp_()
    total_C, weighted_C = exp_CV.sum(1), torch.linalg.vecdot(exp_CV, d_CV) / temperature
    if temperature == 1:
        return max_C, torch.stack([target_C, total_C, weighted_C, total_C, weighted_C])
    torch.exp(d_CV, out=exp_CV)
    return max_C, torch.stack([target_C, total_C, weighted_C, exp_CV.sum(1), torch.linalg.vecdot(exp_CV, d_CV)])


def _merge(
    max_T: torch.Tensor, sums_5T: torch.Tensor, temperature: float, group: ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the whole vocabulary from those of its shards: one MAX and one SUM all-reduce for all rows."""
    whole_T = max_T.clone()
    dist.all_reduce(whole_T, dist.ReduceOp.MAX, group)
    shift_T = max_T - whole_T
    target_T, total_T, weighted_T, total_one_T, weighted_one_T = sums_5T
    merged = [target_T]
    for total, weighted, shift in (
        (total_T, weighted_T, shift_T / temperature),
        (total_one_T, weighted_one_T, shift_T),
    ):
        scale = shift.exp()
        merged += [scale * total, scale * (weighted + shift * total)]
    merged_5T = torch.stack(merged)
    dist.all_reduce(merged_5T, group=group)
    return whole_T, merged_5T


def _chunks(num_rows: int, size: int) -> list[slice]:
    return [slice(start, min(num_rows, start + size)) for start in range(0, num_rows, size)]
