"""The loss, its gradient and its metrics in plain PyTorch: the truth, and the path on a CPU. README has the maths."""

import torch

from egrc_kernels.policy_loss.mismatch import Sequences, Trust, trusted
from egrc_kernels.policy_loss.settings import LossSettings


def loss_gradients_metrics(
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
    """Scalar loss, its gradients and [8] metrics in the order of `api.LossMetrics`, float32.

    The gradients are [1, R] by the log-probs, or with `entropies_R` [2, R], the second row by the entropies.
    """
    is_used_R = weights_R != 0
    weights_R = torch.where(is_used_R, weights_R, 0.0)
    advantages_R = torch.where(is_used_R, advantages_R, 0.0)
    old_R = torch.where(is_used_R, old_R, 0.0)
    live_R = torch.where(is_used_R, logprobs_R, 0.0)
    coefficients_R = advantages_R * weights_R
    sequences = Sequences.of(is_used_R, boundaries_S)
    ratios_R = _ratios(live_R - old_R, sequences, settings)
    objective_R, slopes_R = _objective(live_R, ratios_R, coefficients_R, settings)
    trust = trusted(old_R, rollout_R, sequences, settings)
    objective_R = torch.where(trust.is_masked_R, 0.0, objective_R * trust.tis_R)
    slopes_R = torch.where(trust.is_masked_R, 0.0, slopes_R * trust.tis_R)
    if settings.ratio == "sequence":
        # the ratio is of a mean: every token of the sequence gets the mean of all slopes
        slopes_R = sequences.mean(slopes_R)[sequences.number_R]
    loss, gradient_R = -objective_R.sum(), -slopes_R
    if settings.kl_coef and reference_R is not None:
        differences_R = live_R - torch.where(is_used_R, reference_R, 0.0)
        loss = loss + settings.kl_coef * (weights_R * kl_estimate(differences_R, settings.kl_kind)).sum()
        gradient_R = gradient_R + settings.kl_coef * weights_R * _kl_slope(differences_R, settings.kl_kind)
    gradients = [torch.where(is_used_R, gradient_R, 0.0)]
    if entropies_R is not None:
        gradients.append(-settings.entropy_coef * weights_R)
        loss = loss + (gradients[1] * torch.where(is_used_R, entropies_R, 0.0)).sum()
    metrics_8 = _metrics(live_R, old_R, is_used_R, ratios_R, coefficients_R, trust, settings)
    return loss, torch.stack(gradients), metrics_8


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


def _ratios(differences_R: torch.Tensor, sequences: Sequences, settings: LossSettings) -> torch.Tensor:
    if settings.ratio == "sequence":
        differences_R = sequences.mean(differences_R)[sequences.number_R]
    return differences_R.exp()


def _objective(
    live_R: torch.Tensor, ratios_R: torch.Tensor, coefficients_R: torch.Tensor, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is maximised, token by token, and its derivative by the log-prob (by the log of the ratio)."""
    if settings.ratio == "none":
        return coefficients_R * live_R, coefficients_R
    if settings.ratio == "capped":
        slopes_R = coefficients_R * ratios_R.clamp(max=1 + settings.eps_clip_high)
        return slopes_R * live_R, slopes_R
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
    trust: Trust,
    settings: LossSettings,
) -> torch.Tensor:
    low, high = 1 - settings.eps_clip, 1 + settings.eps_clip_high
    is_clipped_R = ((coefficients_R > 0) & (ratios_R > high)) | ((coefficients_R < 0) & (ratios_R < low))
    if settings.ratio == "none":
        is_clipped_R = torch.zeros_like(is_clipped_R)
    elif settings.ratio == "capped":
        is_clipped_R = ratios_R > high
    sums = [
        torch.ones_like(live_R),
        is_clipped_R.to(live_R.dtype),
        kl_estimate(old_R - live_R, "k3"),
        trust.tis_R,
        trust.is_masked_R.to(live_R.dtype),
    ]
    infinity = live_R.new_full((1,), torch.inf)
    lowest = torch.cat([torch.where(is_used_R, ratios_R, torch.inf), infinity]).amin()
    highest = torch.cat([torch.where(is_used_R, ratios_R, -torch.inf), -infinity]).amax()
    sums_5 = [torch.where(is_used_R, x, 0.0).sum() for x in sums]
    return torch.stack([*sums_5, trust.num_masked_sequences.to(live_R.dtype), lowest, highest])
