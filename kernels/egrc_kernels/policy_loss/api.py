"""The public entry of the op: checks, torch's view of it, autograd; and token weights for the usual reductions."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import torch

from egrc_kernels.policy_loss import reference
from egrc_kernels.policy_loss.settings import LossSettings, Range
from egrc_kernels.registry import uses_triton


class LossMetrics(NamedTuple):
    """Sums over the tokens that count, so that micro-batches and ranks add up; then two extremes. float32 scalars."""

    num_tokens: torch.Tensor
    num_clipped: torch.Tensor
    """Tokens whose ratio is beyond the clip on the side where the clip acts."""
    approx_kl: torch.Tensor
    """k3 of old to present policy."""
    tis_weight: torch.Tensor
    """Weights of truncated importance sampling; one for each token without `tis_cap`."""
    num_masked: torch.Tensor
    """Tokens that teach nothing because they, or their sequence, lie outside of `token_mask` or `sequence_mask`."""
    num_masked_sequences: torch.Tensor
    """Sequences outside of `sequence_mask`."""
    ratio_min: torch.Tensor
    ratio_max: torch.Tensor


class PolicyLoss(NamedTuple):
    """The scalar has the gradient; the metrics have none."""

    loss: torch.Tensor
    metrics: LossMetrics


def policy_loss(
    logprobs_R: torch.Tensor,
    advantages_R: torch.Tensor,
    weights_R: torch.Tensor,
    boundaries_S: torch.Tensor,
    settings: LossSettings,
    *,
    old_logprobs_R: torch.Tensor | None = None,
    rollout_logprobs_R: torch.Tensor | None = None,
    reference_logprobs_R: torch.Tensor | None = None,
    entropies_R: torch.Tensor | None = None,
) -> PolicyLoss:
    """The masked advantage loss of packed sequences, already normalised by its token weights.

    Args:
        logprobs_R: [R] float32, of the tokens of all sequences, one sequence after the other.
        advantages_R: [R] float32.
        weights_R: [R] float32, at least zero; zero: the token counts for nothing, whatever the others hold, NaN too.
        boundaries_S: [S + 1] int32 or int64, from 0 to R: where sequences begin and end; empty ones are allowed.
        settings: which loss.
        old_logprobs_R: [R], the denominator of the ratio; None: the present ones, without their gradient.
        rollout_logprobs_R: [R], for `tis_cap` and the masks; NaN: unknown, weight one and never masked.
        reference_logprobs_R: [R], for `kl_coef`.
        entropies_R: [R], for `entropy_coef`; the loss has a gradient by them.

    Raises:
        ValueError: a shape, dtype or device differs, or a term lacks its log-probs.
    """
    optional = (old_logprobs_R, rollout_logprobs_R, reference_logprobs_R, entropies_R)
    for name, tensor in zip(_PER_ROW, (logprobs_R, advantages_R, weights_R, *optional), strict=True):
        if tensor is None:
            continue
        if tensor.dtype != torch.float32 or tensor.shape != logprobs_R.shape or tensor.dim() != 1:
            raise ValueError(f"{name}_R must be float32 [R], got {tensor.dtype} {tuple(tensor.shape)}")
        if tensor.device != logprobs_R.device:
            raise ValueError(f"{name}_R is on {tensor.device}, logprobs_R on {logprobs_R.device}")
    if boundaries_S.dim() != 1 or boundaries_S.dtype not in (torch.int32, torch.int64) or not len(boundaries_S):
        raise ValueError(f"boundaries_S must be int32 [S + 1], got {boundaries_S.dtype} {tuple(boundaries_S.shape)}")
    if settings.kl_coef and reference_logprobs_R is None:
        raise ValueError("kl_coef needs reference_logprobs_R")
    if settings.compares_servers and rollout_logprobs_R is None:
        raise ValueError("tis_cap, token_mask and sequence_mask need rollout_logprobs_R")
    if settings.entropy_coef and entropies_R is None:
        raise ValueError("entropy_coef needs entropies_R")
    old_R = logprobs_R.detach() if old_logprobs_R is None else old_logprobs_R
    entropies_R = entropies_R if settings.entropy_coef else None
    inputs = [x if x is None else x.contiguous() for x in (rollout_logprobs_R, reference_logprobs_R, entropies_R)]
    loss, metrics_8 = _PolicyLoss.apply(
        logprobs_R.contiguous(),
        advantages_R.contiguous(),
        weights_R.contiguous(),
        old_R.contiguous(),
        *inputs,
        boundaries_S,
        settings,
    )
    return PolicyLoss(loss, LossMetrics(*metrics_8))


_PER_ROW = (
    "logprobs",
    "advantages",
    "weights",
    "old_logprobs",
    "rollout_logprobs",
    "reference_logprobs",
    "entropies",
)


class _PolicyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        *tensors, settings = inputs
        loss, gradients_KR, metrics_8 = _loss_gradients_metrics(*tensors, *astuple(settings))
        ctx.save_for_backward(gradients_KR)
        ctx.mark_non_differentiable(metrics_8)
        # the metrics have no gradient, and zeros for it would be a launch more
        ctx.set_materialize_grads(False)
        return loss, metrics_8

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        (gradients_KR,), (grad_loss, _grad_metrics) = ctx.saved_tensors, grads
        found: list[torch.Tensor | None] = [None] * 9
        if grad_loss is not None:
            # by the log-probs and, where the entropy counts, by the entropies: one product for both
            found[0], *by_entropies = (gradients_KR * grad_loss).unbind()
            found[6] = by_entropies[0] if by_entropies else None
        return tuple(found)


@torch.library.custom_op("egrc::policy_loss", mutates_args=())
def _loss_gradients_metrics(
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    old: torch.Tensor,
    rollout: torch.Tensor | None,
    references: torch.Tensor | None,
    entropies: torch.Tensor | None,
    boundaries: torch.Tensor,
    ratio: str,
    eps_clip: float,
    eps_clip_high: float,
    dual_clip: float | None,
    tis_cap: float | None,
    tis_ratio: str,
    kl_coef: float,
    kl_kind: str,
    entropy_coef: float,
    token_mask: Sequence[float] | None,
    sequence_mask: Sequence[float] | None,
    sequence_mask_ratio: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    settings = LossSettings(
        ratio,
        eps_clip,
        eps_clip_high,
        dual_clip,
        tis_cap,
        tis_ratio,
        kl_coef,
        kl_kind,
        entropy_coef,
        _pair(token_mask),
        _pair(sequence_mask),
        sequence_mask_ratio,
    )
    tensors = (logprobs, advantages, weights, old, rollout, references, entropies, boundaries)
    if uses_triton(logprobs):
        from egrc_kernels.policy_loss import triton

        return triton.loss_gradients_metrics(*tensors, settings)
    return reference.loss_gradients_metrics(*tensors, settings)


def _pair(values: Sequence[float] | None) -> Range | None:
    return None if values is None else (values[0], values[1])


@_loss_gradients_metrics.register_fake
def _(
    logprobs: torch.Tensor,
    _advantages: torch.Tensor,
    _weights: torch.Tensor,
    _old: torch.Tensor,
    _rollout: torch.Tensor | None,
    _references: torch.Tensor | None,
    entropies: torch.Tensor | None,
    *_rest: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gradients_KR = logprobs.new_empty(1 if entropies is None else 2, len(logprobs))
    return logprobs.new_empty(()), gradients_KR, logprobs.new_empty(len(LossMetrics._fields))


def token_weights(
    mask_R: torch.Tensor, boundaries_S: torch.Tensor, reduction: str, denominator: float | None = None
) -> torch.Tensor:
    """Weights that make `policy_loss` a mean over one packed batch, for those who use this package by itself.

    A trainer that spreads a batch over micro-batches and ranks knows its own denominators and makes its own weights.

    Args:
        mask_R: [R], zero for tokens that do not count.
        boundaries_S: [S + 1].
        reduction: `token-mean`: over all tokens; `sequence-mean`: of each sequence, then over sequences;
            `sequence-sum`: of each sequence's sum, over sequences.
        denominator: tokens or sequences to divide by; None: those that are here.

    Raises:
        ValueError: another reduction.
    """
    kept_R = (mask_R != 0).to(torch.float32)
    if reduction == "token-mean":
        return kept_R / (denominator or float(kept_R.sum().clamp(min=1)))
    if reduction not in ("sequence-mean", "sequence-sum"):
        raise ValueError(f"reduction must be token-mean, sequence-mean or sequence-sum, got {reduction!r}")
    lengths_S = boundaries_S.diff()
    weights_R = kept_R / (denominator or len(lengths_S))
    if reduction == "sequence-sum":
        return weights_R
    sequences_R = torch.arange(len(lengths_S), device=mask_R.device).repeat_interleave(lengths_S)
    counts_S = kept_R.new_zeros(len(lengths_S)).index_add(0, sequences_R, kept_R)
    return weights_R / counts_S.clamp(min=1)[sequences_R]
