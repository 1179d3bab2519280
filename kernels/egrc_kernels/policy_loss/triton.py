"""The loss, its gradient and its metrics in two launches: a program for each sequence, then one for each sum.

README has the maths. Nothing is added atomically: the first programs write their sums, and the second ones add those in
order, so results repeat bit by bit.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from egrc_kernels.policy_loss.parts import (
    SEQUENCE,
    clip,
    estimate,
    is_used_at,
    objective_of,
    trusted,
    trusted_sequence,
)
from egrc_kernels.policy_loss.settings import KLS, RATIOS, SEQUENCE_RATIOS, TIS_RATIOS, LossSettings
from egrc_kernels.registry import launches_on_its_device

BLOCK, WARPS = 1024, 8
MAX_REGISTERS = 128
"""Said to NVIDIA's assembler, which would else spill a few rather than let a processor hold fewer programs."""
TOTALS_BLOCK = 512
NUM_SUMS = 9
"""The loss, six sums and two extremes."""


@triton.jit
def _mean_difference(logprobs, advantages, weights, olds, begin, end, BLOCK: tl.constexpr):
    """Mean over a sequence's used tokens of present less old log-prob."""
    lanes = tl.arange(0, BLOCK)
    differences = tl.zeros([BLOCK], tl.float32)
    used = tl.zeros([BLOCK], tl.float32)
    for first in range(begin, end, BLOCK):
        places, is_here = first + lanes, first + lanes < end
        is_used, _weight, _advantage = is_used_at(weights, advantages, places, is_here)
        logprob = tl.load(logprobs + places, mask=is_used, other=0.0)
        differences += logprob - tl.load(olds + places, mask=is_used, other=0.0)
        used += is_used.to(tl.float32)
    return tl.sum(differences, 0) / tl.maximum(tl.sum(used, 0), 1.0)


@triton.jit
def _mean_slope(
    mean,
    advantages,
    weights,
    olds,
    rollouts,
    begin,
    end,
    low,
    high,
    dual_clip,
    tis_cap,
    token_least,
    token_most,
    DUAL: tl.constexpr,
    HAS_TIS: tl.constexpr,
    TOKEN_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A token's gradient where the ratio is of a sequence: the mean of the slopes of its used tokens."""
    lanes = tl.arange(0, BLOCK)
    slopes = tl.zeros([BLOCK], tl.float32)
    used = tl.zeros([BLOCK], tl.float32)
    for first in range(begin, end, BLOCK):
        places, is_here = first + lanes, first + lanes < end
        is_used, weight, advantage = is_used_at(weights, advantages, places, is_here)
        ratio = tl.exp(tl.zeros([BLOCK], tl.float32) + mean)
        _value, slope = clip(ratio, advantage * weight, low, high, DUAL, dual_clip)
        slope *= ratio
        if HAS_TIS or TOKEN_MASK:
            tis, is_masked = trusted(
                olds, rollouts, places, is_used, tis_cap, token_least, token_most, HAS_TIS, TOKEN_MASK
            )
            slope = tl.where(is_masked, 0.0, slope * tis)
        slopes += slope
        used += is_used.to(tl.float32)
    return tl.sum(slopes, 0) / tl.maximum(tl.sum(used, 0), 1.0)


@triton.jit
def _store_sums(out, stride, loss, used, clips, moves, tis_sum, masks, sequence_mask, lowest, highest):
    tl.store(out, tl.sum(loss, 0))
    tl.store(out + stride, tl.sum(used, 0))
    tl.store(out + 2 * stride, tl.sum(clips, 0))
    tl.store(out + 3 * stride, tl.sum(moves, 0))
    tl.store(out + 4 * stride, tl.sum(tis_sum, 0))
    tl.store(out + 5 * stride, tl.sum(masks, 0))
    tl.store(out + 6 * stride, sequence_mask)
    tl.store(out + 7 * stride, tl.min(lowest, 0))
    tl.store(out + 8 * stride, tl.max(highest, 0))


@triton.jit(do_not_specialize=["num_sequences", "num_tokens", "mask_by", "tis_by"])
def _policy_loss_kernel(
    logprobs,
    advantages,
    weights,
    olds,
    rollouts,
    references,
    entropies,
    boundaries,
    gradients,
    sums,
    num_sequences,
    num_tokens,
    low,
    high,
    dual_clip,
    tis_cap,
    kl_coef,
    entropy_coef,
    token_least,
    token_most,
    whole_least,
    whole_most,
    mask_by,
    tis_by,
    RATIO: tl.constexpr,
    DUAL: tl.constexpr,
    HAS_TIS: tl.constexpr,
    KL: tl.constexpr,
    HAS_KL: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    TOKEN_MASK: tl.constexpr,
    OF_SEQUENCES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence = tl.program_id(0)
    begin, end = tl.load(boundaries + sequence), tl.load(boundaries + sequence + 1)
    lanes = tl.arange(0, BLOCK)
    sequence_tis, sequence_mask = 1.0, 0.0
    if OF_SEQUENCES:
        sequence_tis, sequence_mask = trusted_sequence(
            weights, advantages, olds, rollouts, begin, end, mask_by, whole_least, whole_most, tis_by, tis_cap, BLOCK
        )
    mean = 0.0
    slope_mean = 0.0
    if RATIO == SEQUENCE:
        mean = _mean_difference(logprobs, advantages, weights, olds, begin, end, BLOCK)
        slope_mean = _mean_slope(
            mean,
            advantages,
            weights,
            olds,
            rollouts,
            begin,
            end,
            low,
            high,
            dual_clip,
            tis_cap,
            token_least,
            token_most,
            DUAL,
            HAS_TIS,
            TOKEN_MASK,
            BLOCK,
        )
        slope_mean = tl.where(sequence_mask > 0.0, 0.0, slope_mean * sequence_tis)
    is_sequence_masked = tl.zeros([BLOCK], tl.float32) + sequence_mask > 0.0
    loss = tl.zeros([BLOCK], tl.float32)
    used = tl.zeros([BLOCK], tl.float32)
    clips = tl.zeros([BLOCK], tl.float32)
    moves = tl.zeros([BLOCK], tl.float32)
    tis_sum = tl.zeros([BLOCK], tl.float32)
    masks = tl.zeros([BLOCK], tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(begin, end, BLOCK):
        places, is_here = first + lanes, first + lanes < end
        is_used, weight, advantage = is_used_at(weights, advantages, places, is_here)
        logprob = tl.load(logprobs + places, mask=is_used, other=0.0)
        old = tl.load(olds + places, mask=is_used, other=0.0)
        coefficient = advantage * weight
        difference = logprob - old
        ratio = tl.exp(difference)
        if RATIO == SEQUENCE:
            ratio = tl.exp(tl.zeros([BLOCK], tl.float32) + mean)
        objective, gradient, is_clipped = objective_of(
            ratio, logprob, coefficient, is_used, low, high, dual_clip, RATIO, DUAL
        )
        tis, is_masked = trusted(olds, rollouts, places, is_used, tis_cap, token_least, token_most, HAS_TIS, TOKEN_MASK)
        tis *= sequence_tis
        if HAS_TIS or TOKEN_MASK or OF_SEQUENCES:
            is_masked = is_masked | (is_used & is_sequence_masked)
            objective = tl.where(is_masked, 0.0, objective * tis)
            gradient = tl.where(is_masked, 0.0, gradient * tis)
        if TOKEN_MASK or OF_SEQUENCES:
            masks += is_masked.to(tl.float32)
        if RATIO == SEQUENCE:
            gradient = tl.where(is_used, slope_mean, 0.0)
        token_loss = -objective
        gradient = -gradient
        if HAS_KL:
            x = logprob - tl.load(references + places, mask=is_used, other=0.0)
            kl, kl_slope = estimate(x, KL, BLOCK)
            token_loss += kl_coef * weight * kl
            gradient += kl_coef * weight * kl_slope
        if HAS_ENTROPY:
            slope = -entropy_coef * weight
            token_loss += slope * tl.load(entropies + places, mask=is_used, other=0.0)
            tl.store(gradients + num_tokens + places, slope, mask=is_here)
        tl.store(gradients + places, tl.where(is_used, gradient, 0.0), mask=is_here)
        loss += tl.where(is_used, token_loss, 0.0)
        used += is_used.to(tl.float32)
        clips += is_clipped.to(tl.float32)
        moves += tl.where(is_used, tl.exp(difference) - 1.0 - difference, 0.0)
        tis_sum += tis
        lowest = tl.minimum(lowest, tl.where(is_used, ratio, float("inf")))
        highest = tl.maximum(highest, tl.where(is_used, ratio, float("-inf")))
    out = sums + sequence
    _store_sums(out, num_sequences, loss, used, clips, moves, tis_sum, masks, sequence_mask, lowest, highest)


@triton.jit(do_not_specialize=["num_sequences"])
def _totals_kernel(sums, loss, metrics, num_sequences, BLOCK: tl.constexpr):
    """Over the sequences: the loss and six metrics are sums, the last two an extreme each."""
    number = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, num_sequences, BLOCK):
        sequences = first + tl.arange(0, BLOCK)
        is_here = sequences < num_sequences
        values = tl.load(sums + number * num_sequences + sequences, mask=is_here, other=0.0)
        total += values
        lowest = tl.minimum(lowest, tl.where(is_here, values, float("inf")))
        highest = tl.maximum(highest, tl.where(is_here, values, float("-inf")))
    result = tl.sum(total, 0)
    if number == 0:
        tl.store(loss, result)
    else:
        result = tl.where(number == 7, tl.min(lowest, 0), tl.where(number == 8, tl.max(highest, 0), result))
        tl.store(metrics + number - 1, result)


@launches_on_its_device
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
    """The kernel's answer to `reference.loss_gradients_metrics`, which says the shapes."""
    num_tokens, num_sequences = len(logprobs_R), len(boundaries_S) - 1
    gradients_KR = logprobs_R.new_empty(1 if entropies_R is None else 2, num_tokens)
    sums_9S = torch.empty(NUM_SUMS, num_sequences, dtype=torch.float32, device=logprobs_R.device)
    if num_sequences:
        _policy_loss_kernel[(num_sequences,)](
            logprobs_R,
            advantages_R,
            weights_R,
            old_R,
            logprobs_R if rollout_R is None else rollout_R,
            logprobs_R if reference_R is None else reference_R,
            logprobs_R if entropies_R is None else entropies_R,
            boundaries_S,
            gradients_KR,
            sums_9S,
            num_sequences,
            num_tokens,
            *_numbers(settings),
            BLOCK=BLOCK,
            num_warps=WARPS,
            **_variant(settings, has_rollout=rollout_R is not None, has_reference=reference_R is not None),
            HAS_ENTROPY=entropies_R is not None,
            **({"maxnreg": MAX_REGISTERS} if torch.version.hip is None else {}),
        )
    loss, metrics_8 = logprobs_R.new_empty(()), logprobs_R.new_empty(NUM_SUMS - 1)
    _totals_kernel[(NUM_SUMS,)](sums_9S, loss, metrics_8, num_sequences, BLOCK=TOTALS_BLOCK, num_warps=WARPS)
    return loss, gradients_KR, metrics_8


def _numbers(settings: LossSettings) -> tuple[float, ...]:
    """From the lower clip to which ratio of a sequence is truncated, in the kernel's order."""
    token_mask, sequence_mask = settings.token_mask or (0.0, 0.0), settings.sequence_mask or (0.0, 0.0)
    return (
        1 - settings.eps_clip,
        1 + settings.eps_clip_high,
        settings.dual_clip or 0.0,
        settings.tis_cap or 0.0,
        settings.kl_coef,
        settings.entropy_coef,
        *map(float, (*token_mask, *sequence_mask)),
        0 if settings.sequence_mask is None else 1 + SEQUENCE_RATIOS.index(settings.sequence_mask_ratio),
        TIS_RATIOS.index(settings.tis_ratio) if settings.has_sequence_tis else 0,
    )


def _variant(settings: LossSettings, *, has_rollout: bool, has_reference: bool) -> dict[str, Any]:
    """The constants that make another kernel."""
    of_sequences = settings.sequence_mask is not None or settings.has_sequence_tis
    return {
        "RATIO": RATIOS.index(settings.ratio),
        "DUAL": settings.dual_clip is not None and settings.ratio in ("token", "sequence"),
        "HAS_TIS": has_rollout and settings.has_token_tis,
        "KL": KLS.index(settings.kl_kind),
        "HAS_KL": bool(settings.kl_coef) and has_reference,
        "TOKEN_MASK": has_rollout and settings.token_mask is not None,
        "OF_SEQUENCES": has_rollout and of_sequences,
    }
