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
    entropies_R: torch.Tensor | None,
    boundaries_S: torch.Tensor,
    settings: LossSettings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scalar loss, [R] gradient by the log-probs, [8] metrics in the order of `api.METRICS`), float32."""
    is_used_R = weights_R != 0
    if settings.positive_only:
        is_used_R = is_used_R & (advantages_R > 0)
    weights_R = torch.where(is_used_R, weights_R, 0.0)
    advantages_R = torch.where(is_used_R, advantages_R, 0.0)
    old_R = torch.where(is_used_R, old_R, 0.0)
    with torch.enable_grad():
        live_R = torch.where(is_used_R, logprobs_R.detach(), 0.0).requires_grad_()
        coefficients_R = advantages_R * weights_R
        ratios_R = _ratios(live_R, old_R, is_used_R, boundaries_S, settings)
        objective_R = _objective(live_R, ratios_R, coefficients_R, settings)
        tis_R = torch.ones_like(live_R)
        if settings.tis_cap is not None and rollout_R is not None:
            server_R = torch.where(rollout_R.isnan(), old_R, rollout_R)
            tis_R = torch.where(is_used_R, (old_R - server_R).exp(), 1.0).clamp(max=settings.tis_cap)
            objective_R = objective_R * tis_R
        loss = -objective_R.sum()
        kl_R = torch.zeros_like(live_R)
        if settings.kl_coef and reference_R is not None:
            kl_R = kl_estimate(live_R - torch.where(is_used_R, reference_R, 0.0), settings.kl_kind)
            loss = loss + settings.kl_coef * (weights_R * kl_R).sum()
        (gradient_R,) = torch.autograd.grad(loss, live_R)
    details = (old_R, ratios_R, coefficients_R, tis_R, kl_R, entropies_R)
    return loss.detach(), gradient_R, _metrics(live_R, is_used_R, details, settings)


def kl_estimate(difference_R: torch.Tensor, kind: str) -> torch.Tensor:
    """k1, k2 or k3 of the differences log pi - log reference."""
    if kind == "k1":
        return difference_R
    if kind == "k2":
        return difference_R.square() / 2
    return (-difference_R).exp() - 1 + difference_R


def _ratios(
    live_R: torch.Tensor,
    old_R: torch.Tensor,
    is_used_R: torch.Tensor,
    boundaries_S: torch.Tensor,
    settings: LossSettings,
) -> torch.Tensor:
    differences_R = live_R - old_R
    if settings.ratio == "sequence":
        lengths_S = boundaries_S.diff()
        sequences_R = torch.arange(len(lengths_S), device=live_R.device).repeat_interleave(lengths_S)
        zeros_S = live_R.new_zeros(len(lengths_S))
        counts_S = zeros_S.index_add(0, sequences_R, is_used_R.to(live_R.dtype))
        sums_S = zeros_S.index_add(0, sequences_R, differences_R * is_used_R.to(live_R.dtype))
        differences_R = (sums_S / counts_S.clamp(min=1))[sequences_R]
    return differences_R.exp()


def _objective(
    live_R: torch.Tensor, ratios_R: torch.Tensor, coefficients_R: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    """What is maximised, token by token."""
    if settings.ratio == "none":
        return coefficients_R * live_R
    clipped_R = ratios_R.clamp(1 - settings.eps_clip, 1 + settings.eps_clip_high)
    # token weights are positive, so the coefficient's sign is the advantage's and min() is PPO's pessimism
    objective_R = torch.minimum(coefficients_R * ratios_R, coefficients_R * clipped_R)
    if settings.dual_clip is not None:
        floor_R = torch.where(coefficients_R < 0, settings.dual_clip * coefficients_R, -torch.inf)
        objective_R = torch.maximum(objective_R, floor_R)
    return objective_R


def _metrics(
    live_R: torch.Tensor,
    is_used_R: torch.Tensor,
    details: tuple[torch.Tensor | None, ...],
    settings: LossSettings,
) -> torch.Tensor:
    old_R, ratios_R, coefficients_R, tis_R, kl_R, entropies_R = details
    assert old_R is not None and ratios_R is not None and coefficients_R is not None
    ratios_R = ratios_R.detach()
    low, high = 1 - settings.eps_clip, 1 + settings.eps_clip_high
    is_clipped_R = ((coefficients_R > 0) & (ratios_R > high)) | ((coefficients_R < 0) & (ratios_R < low))
    if settings.ratio == "none":
        is_clipped_R = torch.zeros_like(is_clipped_R)
    nothing_R = torch.zeros_like(live_R)
    sums = [
        is_used_R.float(),
        is_clipped_R.float(),
        kl_estimate(old_R - live_R.detach(), "k3"),
        nothing_R if entropies_R is None else entropies_R,
        nothing_R if tis_R is None else tis_R,
        nothing_R if kl_R is None else kl_R.detach(),
    ]
    extremes = [torch.where(is_used_R, ratios_R, torch.inf), torch.where(is_used_R, ratios_R, -torch.inf)]
    return torch.stack(
        [torch.where(is_used_R, x, 0.0).sum() for x in sums]
        + ([extremes[0].amin(), extremes[1].amax()] if len(live_R) else [live_R.new_tensor(torch.inf)] * 2)
    )
