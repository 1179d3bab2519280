"""Row statistics of logits and their gradient in plain PyTorch: the truth, and the path on a CPU; maths in README."""

import torch

PADDING = -1e30
"""Logit of a padding column: its exponential is zero, and zero times it is zero, which it is not for infinity."""


def row_partials(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    """Float32 [6, T]: m, the target's logit, then sums of e and e d at the temperature and at one; d = l - m.

    A float32 `logits_TV` is used up.
    """
    l_TV = finite(logits_TV.float(), num_real)
    index_T1, is_here_T = find(targets_T, start, num_real)
    target_T = l_TV.gather(1, index_T1)[:, 0] * is_here_T
    max_T = l_TV.max(dim=1).values
    d_TV = l_TV.sub_(max_T[:, None])
    exp_TV = (d_TV / temperature).exp_()
    total_T, weighted_T = exp_TV.sum(1), torch.linalg.vecdot(exp_TV, d_TV) / temperature
    if temperature == 1:
        return torch.stack([max_T, target_T, total_T, weighted_T, total_T, weighted_T])
    torch.exp(d_TV, out=exp_TV)
    return torch.stack([max_T, target_T, total_T, weighted_T, exp_TV.sum(1), torch.linalg.vecdot(exp_TV, d_TV)])


def row_gradients_(
    logits_TV: torch.Tensor,
    targets_T: torch.Tensor,
    log_sum_T: torch.Tensor,
    grad_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
) -> None:
    """Overwrite logits with the gradient by them; see README for the formula. Padding columns get zero."""
    scale_T = grad_logprob_T / temperature
    l_TV = finite(logits_TV if logits_TV.dtype == torch.float32 else logits_TV.float(), num_real)
    lp_TV = l_TV.div_(temperature).sub_(log_sum_T[:, None])
    if grad_entropy_T is None or entropy_T is None:
        grad_TV = lp_TV.exp_()
        grad_TV.mul_(-scale_T[:, None])
    else:
        slope_T1 = (grad_entropy_T / temperature)[:, None]
        # a padding column's log-prob is -1e30: its slope must not meet a zero probability as infinity
        factor_TV = (lp_TV + entropy_T[:, None]).mul_(slope_T1).add_(scale_T[:, None])
        grad_TV = lp_TV.exp_().mul_(factor_TV).neg_()
    index_T1, is_here_T = find(targets_T, start, num_real)
    grad_TV.scatter_add_(1, index_T1, (scale_T * is_here_T)[:, None])
    if grad_TV is not logits_TV:
        logits_TV.copy_(grad_TV)


def finite(l_TV: torch.Tensor, num_real: int) -> torch.Tensor:
    """Padding columns and tokens forbidden by a logit of minus infinity as `PADDING`, in place."""
    l_TV.clamp_(min=PADDING)
    l_TV[:, num_real:] = PADDING
    return l_TV


def find(targets_T: torch.Tensor, start: int, num_real: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Column of each target in this shard ([T, 1], clamped) and whether it is here."""
    local_T = targets_T - start
    return local_T.clamp(0, max(0, num_real - 1))[:, None], (local_T >= 0) & (local_T < num_real)
