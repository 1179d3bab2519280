"""The loss, its gradient and its metrics in plain PyTorch: the truth, and the path on a CPU. README has the maths."""

import torch

from egrc_kernels.policy_loss.settings import LossSettings


def loss_gradient_metrics(
    logprobs_R: torch.Tensor,
    advantages_R: torch.Tensor,
    weights_R: torch.Tensor,
    old_R: torch.Tensor,
    rollout_R: torch.Tensor | None,
    reference_R: torch.Tensor | None,
    boundaries_S: torch.Tensor,
    settings: LossSettings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scalar loss, [R] gradient by the log-probs, [6] metrics in the order of `api.LossMetrics`), float32."""
    is_used_R = weights_R != 0
    weights_R = torch.where(is_used_R, weights_R, 0.0)
    advantages_R = torch.where(is_used_R, advantages_R, 0.0)
    old_R = torch.where(is_used_R, old_R, 0.0)
    live_R = torch.where(is_used_R, logprobs_R, 0.0)
    coefficients_R = advantages_R * weights_R
    sequences_R, counts_S = _sequences(is_used_R, boundaries_S)
    ratios_R = _ratios(live_R - old_R, is_used_R, sequences_R, counts_S, settings)
    objective_R, slopes_R = _objective(live_R, ratios_R, coefficients_R, settings)
    tis_R = torch.ones_like(live_R)
    if settings.tis_cap is not None and rollout_R is not None:
        server_R = torch.where(rollout_R.isnan(), old_R, rollout_R)
        tis_R = torch.where(is_used_R, (old_R - server_R).exp(), 1.0).clamp(max=settings.tis_cap)
        objective_R, slopes_R = objective_R * tis_R, slopes_R * tis_R
    if settings.ratio == "sequence":
        # the ratio is of a mean: every token of the sequence gets the mean of all slopes
        counts_S = counts_S.to(slopes_R.dtype)
        sums_S = torch.zeros_like(counts_S).index_add(0, sequences_R, slopes_R)
        slopes_R = (sums_S / counts_S.clamp(min=1))[sequences_R]
    loss, gradient_R = -objective_R.sum(), -slopes_R
    if settings.kl_coef and reference_R is not None:
        differences_R = live_R - torch.where(is_used_R, reference_R, 0.0)
        loss = loss + settings.kl_coef * (weights_R * kl_estimate(differences_R, settings.kl_kind)).sum()
        gradient_R = gradient_R + settings.kl_coef * weights_R * _kl_slope(differences_R, settings.kl_kind)
    metrics_6 = _metrics(live_R, old_R, is_used_R, ratios_R, coefficients_R, tis_R, settings)
    return loss, torch.where(is_used_R, gradient_R, 0.0), metrics_6


def kl_estimate(difference_R: torch.Tensor, kind: str) -> torch.Tensor:
    """The estimate k1, k2 or k3 of the differences log pi - log reference."""
    if kind == "k1":
        return difference_R
    if kind == "k2":
        return difference_R.square() / 2
    return (-difference_R).exp() - 1 + difference_R


def _kl_slope(difference_R: torch.Tensor, kind: str) -> torch.Tensor:
    """Derivative of `kl_estimate` by the difference."""
    if kind == "k1":
        return torch.ones_like(difference_R)
    if kind == "k2":
        return difference_R
    return 1 - (-difference_R).exp()


def _sequences(is_used_R: torch.Tensor, boundaries_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Number of each token's sequence, and how many tokens count in each sequence."""
    lengths_S = boundaries_S.diff().long()
    sequences_R = torch.arange(len(lengths_S), device=is_used_R.device).repeat_interleave(
        lengths_S, output_size=len(is_used_R)
    )
    counts_S = torch.zeros(len(lengths_S), dtype=torch.float32, device=is_used_R.device)
    return sequences_R, counts_S.index_add(0, sequences_R, is_used_R.to(torch.float32))


def _ratios(
    differences_R: torch.Tensor,
    is_used_R: torch.Tensor,
    sequences_R: torch.Tensor,
    counts_S: torch.Tensor,
    settings: LossSettings,
) -> torch.Tensor:
    if settings.ratio == "sequence":
        counts_S = counts_S.to(differences_R.dtype)
        used_R = differences_R * is_used_R.to(differences_R.dtype)
        sums_S = torch.zeros_like(counts_S).index_add(0, sequences_R, used_R)
        differences_R = (sums_S / counts_S.clamp(min=1))[sequences_R]
    return differences_R.exp()


def _objective(
    live_R: torch.Tensor, ratios_R: torch.Tensor, coefficients_R: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is maximised, token by token, and its derivative by the log-prob (by the log of the ratio)."""
    if settings.ratio == "none":
        return coefficients_R * live_R, coefficients_R
    low, high = 1 - settings.eps_clip, 1 + settings.eps_clip_high
    # token weights are positive, so the coefficient's sign is the advantage's and min() is PPO's pessimism
    free_R, clipped_R = coefficients_R * ratios_R, coefficients_R * ratios_R.clamp(low, high)
    objective_R = torch.minimum(free_R, clipped_R)
    moves_R = (free_R <= clipped_R) | ((ratios_R >= low) & (ratios_R <= high))
    if settings.dual_clip is not None:
        floor_R = settings.dual_clip * coefficients_R
        is_floored_R = (coefficients_R < 0) & (objective_R < floor_R)
        objective_R, moves_R = torch.where(is_floored_R, floor_R, objective_R), moves_R & ~is_floored_R
    return objective_R, torch.where(moves_R, free_R, 0.0)


def _metrics(
    live_R: torch.Tensor,
    old_R: torch.Tensor,
    is_used_R: torch.Tensor,
    ratios_R: torch.Tensor,
    coefficients_R: torch.Tensor,
    tis_R: torch.Tensor,
    settings: LossSettings,
) -> torch.Tensor:
    low, high = 1 - settings.eps_clip, 1 + settings.eps_clip_high
    is_clipped_R = ((coefficients_R > 0) & (ratios_R > high)) | ((coefficients_R < 0) & (ratios_R < low))
    if settings.ratio == "none":
        is_clipped_R = torch.zeros_like(is_clipped_R)
    sums = [
        torch.ones_like(live_R),
        is_clipped_R.to(live_R.dtype),
        kl_estimate(old_R - live_R, "k3"),
        tis_R,
    ]
    infinity = live_R.new_full((1,), torch.inf)
    lowest = torch.cat([torch.where(is_used_R, ratios_R, torch.inf), infinity]).amin()
    highest = torch.cat([torch.where(is_used_R, ratios_R, -torch.inf), -infinity]).amax()
    return torch.stack([*(torch.where(is_used_R, x, 0.0).sum() for x in sums), lowest, highest])
