"""The op in plain PyTorch: the truth the kernels are held against, and the path on a CPU.

Three small all-reduces over the tensor-parallel group: the row maximum, then the partial sums of exp and of exp times
logit together with the target's logit. Backward is local: d logprob / d logits = (onehot - softmax) / temperature.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup


class LogprobEntropy(torch.autograd.Function):
    """See `egrc_kernels.logprob.logprob_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_TV: torch.Tensor,
        targets_T: torch.Tensor,
        temperature: float,
        vocab_size: int | None,
        group: ProcessGroup | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (logprob_T, entropy_T) in float32."""
        num_columns = logits_TV.shape[1]
        start = 0 if group is None else num_columns * dist.get_rank(group)
        z_TV = logits_TV.float() / temperature
        if vocab_size is not None and start + num_columns > vocab_size:
            z_TV[:, max(0, vocab_size - start) :] = -torch.inf
        max_T = z_TV.max(dim=1).values
        if group is not None:
            dist.all_reduce(max_T, dist.ReduceOp.MAX, group)
        z_TV -= max_T[:, None]
        local_T = targets_T - start
        is_here_T = (local_T >= 0) & (local_T < num_columns)
        index_T1 = local_T.clamp(0, num_columns - 1)[:, None]
        target_z_T = z_TV.gather(1, index_T1)[:, 0].where(is_here_T, torch.zeros(()))
        exp_TV = z_TV.exp()
        # padding has exp = 0 and z = -inf, whose product would be NaN
        weighted_T = (exp_TV * z_TV.masked_fill(exp_TV == 0, 0.0)).sum(1)
        sums_3T = torch.stack([exp_TV.sum(1), weighted_T, target_z_T])
        if group is not None:
            dist.all_reduce(sums_3T, group=group)
        total_T, weighted_T, target_z_T = sums_3T
        log_total_T = total_T.log()
        softmax_TV = exp_TV.div_(total_T[:, None])
        ctx.save_for_backward(softmax_TV, index_T1, is_here_T)
        ctx.temperature, ctx.dtype = temperature, logits_TV.dtype
        entropy_T = log_total_T - weighted_T / total_T
        ctx.mark_non_differentiable(entropy_T)
        return target_z_T - log_total_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        """Gradient of the log-prob; the entropy has none."""
        softmax_TV, index_T1, is_here_T = ctx.saved_tensors
        scale_T1 = (grads[0] / ctx.temperature)[:, None]
        grad_TV = softmax_TV * -scale_T1
        grad_TV.scatter_add_(1, index_T1, scale_T1 * is_here_T[:, None])
        return grad_TV.to(ctx.dtype), None, None, None, None
