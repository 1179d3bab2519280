"""The policy loss of one micro-batch, already normalised over the whole batch: micro-batches and ranks just add up."""

import torch

from egrc_mega.config.schema import LossSection


def policy_loss(
    logprob_R: torch.Tensor, old_logprob_R: torch.Tensor | None, coefficient_R: torch.Tensor, loss: LossSection
) -> torch.Tensor:
    """Scalar loss whose gradient is the policy gradient.

    Args:
        logprob_R: [R] log-probs with gradient.
        old_logprob_R: [R] log-probs of the policy that sampled; None: this one (first update of a batch, ratio 1).
        coefficient_R: [R] advantage times token weight; zero drops a token whatever its log-prob.
        loss: `ratio` none is -A log pi (paper 3.3.2); token is PPO's clipped ratio (paper 3.4, GRPO).
    """
    used_R = coefficient_R != 0
    logprob_R = torch.where(used_R, logprob_R, torch.zeros_like(logprob_R))
    if loss.ratio == "none":
        return -(coefficient_R * logprob_R).sum()
    old_R = logprob_R.detach() if old_logprob_R is None else torch.where(used_R, old_logprob_R, 0.0)
    ratio_R = (logprob_R - old_R).exp()
    clipped_R = ratio_R.clamp(1 - loss.eps_clip, 1 + loss.eps_clip_high)
    # token weights are positive, so the coefficient's sign is the advantage's and min() is PPO's pessimism
    return -torch.minimum(coefficient_R * ratio_R, coefficient_R * clipped_R).sum()
