"""The policy loss of one micro-batch, already normalised over the whole batch: micro-batches and ranks just add up.

With A the advantage, w the token weight, lp the log-prob, and d = lp - old:

    none       -w A lp                                       the paper's compression (3.3.2)
    token      -w min(r A, clip(r) A), r = exp(d)            PPO, GRPO, the paper's exploration (3.4)
    sequence   the same with r = exp(mean of d over the response's chosen tokens)      GSPO, arXiv 2507.18071
    dual clip  for A < 0 the objective is at least c A       arXiv 1912.09729
    TIS        times min(cap, exp(old - rollout)), detached  truncated importance sampling for servers that differ
    KL         + coef w k(lp - ref)    k1 = x    k2 = x^2 / 2    k3 = exp(-x) - 1 + x      joschu.net/blog/kl-approx
"""

from dataclasses import dataclass, fields
from typing import Any

import torch

from egrc_mega.config.schema import LossSection


@dataclass(frozen=True, slots=True)
class LossRows:
    """What the loss knows of each output token of a micro-batch, [R] each."""

    advantages_R: torch.Tensor
    weights_R: torch.Tensor
    """Zero where the policy did not choose the token, and for fillers: such rows count for nothing."""
    sequences_R: torch.Tensor
    """Which response the token is of: int64, 0 up."""
    rollout_logprobs_R: torch.Tensor
    """The server's; NaN where they cannot be compared."""
    old_logprobs_R: torch.Tensor | None = None
    """The trainer's before the first update of the batch; None: this is the first, where they are the present ones."""
    reference_logprobs_R: torch.Tensor | None = None
    """The reference model's, for the KL term."""

    def where(self, is_kept_R: torch.Tensor) -> "LossRows":
        """Some of the rows."""
        kept: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            kept[field.name] = None if value is None else value[is_kept_R]
        return LossRows(**kept)


def policy_loss(logprobs_R: torch.Tensor, rows: LossRows, loss: LossSection) -> torch.Tensor:
    """Scalar loss of [R] log-probs with gradient."""
    is_used_R = rows.weights_R != 0
    logprobs_R = torch.where(is_used_R, logprobs_R, 0.0)
    old_R = torch.where(is_used_R, _old(logprobs_R, rows, loss), 0.0)
    objective_R = _objective(logprobs_R, old_R, rows, loss)
    if loss.tis_cap is not None:
        server_R = torch.where(rows.rollout_logprobs_R.isnan(), old_R, rows.rollout_logprobs_R)
        objective_R = objective_R * torch.where(is_used_R, (old_R - server_R).exp(), 1.0).clamp(max=loss.tis_cap)
    total = -objective_R.sum()
    if loss.kl_coef:
        assert rows.reference_logprobs_R is not None, "the KL term needs the reference model's log-probs"
        reference_R = torch.where(is_used_R, rows.reference_logprobs_R, 0.0)
        total = total + loss.kl_coef * (rows.weights_R * kl_estimate(logprobs_R - reference_R, loss.kl_kind)).sum()
    return total


def kl_estimate(difference_R: torch.Tensor, kind: str) -> torch.Tensor:
    """k1, k2 or k3 of the differences log pi - log reference."""
    if kind == "k1":
        return difference_R
    if kind == "k2":
        return difference_R.square() / 2
    return (-difference_R).exp() - 1 + difference_R


def _old(logprobs_R: torch.Tensor, rows: LossRows, loss: LossSection) -> torch.Tensor:
    own_R = logprobs_R.detach() if rows.old_logprobs_R is None else rows.old_logprobs_R
    if loss.old_logprobs == "trainer":
        return own_R
    return torch.where(rows.rollout_logprobs_R.isnan(), own_R, rows.rollout_logprobs_R)


def _objective(logprobs_R: torch.Tensor, old_R: torch.Tensor, rows: LossRows, loss: LossSection) -> torch.Tensor:
    """What is maximised, token by token."""
    coefficients_R = rows.advantages_R * rows.weights_R
    if loss.ratio == "none":
        return coefficients_R * logprobs_R
    differences_R = logprobs_R - old_R
    if loss.ratio == "sequence":
        differences_R = _mean_over_sequence(differences_R, rows)
    ratios_R = differences_R.exp()
    clipped_R = ratios_R.clamp(1 - loss.eps_clip, 1 + loss.eps_clip_high)
    # token weights are positive, so the coefficient's sign is the advantage's and min() is PPO's pessimism
    objective_R = torch.minimum(coefficients_R * ratios_R, coefficients_R * clipped_R)
    if loss.dual_clip is not None:
        floor_R = torch.where(coefficients_R < 0, loss.dual_clip * coefficients_R, -torch.inf)
        objective_R = torch.maximum(objective_R, floor_R)
    return objective_R


def _mean_over_sequence(values_R: torch.Tensor, rows: LossRows) -> torch.Tensor:
    """Each token gets the mean over its response's chosen tokens."""
    is_used_R = (rows.weights_R != 0).to(values_R.dtype)
    zeros_S = values_R.new_zeros(int(rows.sequences_R.max()) + 1)
    counts_S = zeros_S.index_add(0, rows.sequences_R, is_used_R)
    sums_S = zeros_S.index_add(0, rows.sequences_R, values_R * is_used_R)
    return (sums_S / counts_S.clamp(min=1))[rows.sequences_R]
