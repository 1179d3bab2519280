"""The policy loss of one micro-batch, already normalised over the whole batch: micro-batches and ranks just add up.

With A the advantage, w the token weight, lp the log-prob, and d = lp - old:

    none       -w A lp                                       the paper's compression (3.3.2)
    token      -w min(r A, clip(r) A), r = exp(d)            PPO, GRPO, the paper's exploration (3.4)
    sequence   the same with r = exp(mean of d over the response's chosen tokens)      GSPO, arXiv 2507.18071
    capped     -w A min(r, 1 + eps_clip_high) lp, the capped ratio detached                CISPO, arXiv 2506.13585
    dual clip  for A < 0 the objective is at least c A       arXiv 1912.09729
    TIS        times min(cap, exp(old - rollout)), detached  truncated importance sampling for servers that differ:
               of the token, or of the whole response (the geometric mean or the product over its tokens)
    masks      the term is 0 where exp(old - rollout) is outside of [low, high]: of a token, or of a whole response
               (its geometric mean or product, or any token's)       IcePop, arXiv 2510.18855: with a TIS cap of `high`
    KL         + coef w k(lp - ref)    k1 = x    k2 = x^2 / 2    k3 = exp(-x) - 1 + x      joschu.net/blog/kl-approx
                                        gradient, over samples of pi: k1 zero, k2 that of KL(pi||ref), k3 of KL(ref||pi)
    entropy    - coef w H, H the token's entropy at the sampling temperature
"""

from dataclasses import dataclass, fields

import torch
from egrc_kernels.policy_loss import LossSettings, PolicyLoss
from egrc_kernels.policy_loss import policy_loss as kernel_loss

from egrc_mega.sections.stage import LossSection


@dataclass(frozen=True, slots=True)
class LossRows:
    """What the loss knows of each output token of a micro-batch, [R] each."""

    advantages_R: torch.Tensor
    weights_R: torch.Tensor
    """Zero where the policy did not choose the token, and for fillers: such rows count for nothing."""
    boundaries_S: torch.Tensor
    """Where responses begin and end: [S + 1], int32, from 0 to R."""
    rollout_logprobs_R: torch.Tensor
    """The server's; NaN where they cannot be compared."""
    old_logprobs_R: torch.Tensor | None = None
    """The trainer's before the first update of the batch; None: this is the first, where they are the present ones."""
    stated_old_logprobs_R: torch.Tensor | None = None
    """Old log-probs that the method states itself: they go before all others. NaN where it states none."""
    reference_logprobs_R: torch.Tensor | None = None
    """The reference model's, for the KL term and for `old_logprobs: reference`."""

    def part(self, place: slice, boundaries_S: torch.Tensor) -> "LossRows":
        """The rows at `place`, in sequences at `boundaries_S`."""
        own = {name: value for name in _PER_ROW if (value := getattr(self, name)) is not None}
        return LossRows(boundaries_S=boundaries_S, **{name: value[place] for name, value in own.items()})


_PER_ROW = [field.name for field in fields(LossRows) if field.name.endswith("_R")]
_OF_THE_KERNEL = {field.name for field in fields(LossSettings)}
"""The section names them as the kernel does; what else it has is about weights and about which log-probs are old."""


def policy_loss(
    logprobs_R: torch.Tensor, rows: LossRows, loss: LossSection, entropies_R: torch.Tensor | None = None
) -> PolicyLoss:
    """Scalar loss of [R] log-probs, and of the entropies where they count, with gradient; and its metrics."""
    settings = LossSettings(**loss.model_dump(include=_OF_THE_KERNEL))
    return kernel_loss(
        logprobs_R,
        rows.advantages_R,
        rows.weights_R,
        rows.boundaries_S,
        settings,
        old_logprobs_R=_old(logprobs_R, rows, loss),
        rollout_logprobs_R=rows.rollout_logprobs_R,
        reference_logprobs_R=rows.reference_logprobs_R,
        entropies_R=entropies_R if loss.entropy_coef else None,
    )


def _old(logprobs_R: torch.Tensor, rows: LossRows, loss: LossSection) -> torch.Tensor:
    old_R = logprobs_R.detach() if rows.old_logprobs_R is None else rows.old_logprobs_R
    if loss.old_logprobs == "rollout":
        old_R = torch.where(rows.rollout_logprobs_R.isnan(), old_R, rows.rollout_logprobs_R)
    elif loss.old_logprobs == "reference":
        assert rows.reference_logprobs_R is not None, "old_logprobs: reference needs the reference's log-probs"
        old_R = rows.reference_logprobs_R
    if rows.stated_old_logprobs_R is not None:
        old_R = torch.where(rows.stated_old_logprobs_R.isnan(), old_R, rows.stated_old_logprobs_R)
    return old_R
