"""The loss, its gradient and its metrics in two launches: a program for each sequence, then one for each sum.

README has the maths. Nothing is added atomically: the first programs write their sums, and the second ones add those in
order, so results repeat bit by bit.
"""

import torch
import triton
import triton.language as tl

from egrc_kernels.policy_loss.settings import KLS, RATIOS, LossSettings
from egrc_kernels.registry import launches_on_its_device

NONE, TOKEN, SEQUENCE = (tl.constexpr(i) for i in range(3))
K1, K2, K3 = (tl.constexpr(i) for i in range(3))
BLOCK, WARPS = 1024, 8
MAX_REGISTERS = 128
"""Said to NVIDIA's assembler, which would else spill a few rather than let a processor hold fewer programs."""
TOTALS_BLOCK = 512
NUM_SUMS = 7
"""The loss, four sums and two extremes."""


@triton.jit
def _is_used(weights, advantages, places, is_here):
    weight = tl.load(weights + places, mask=is_here, other=0.0)
    advantage = tl.load(advantages + places, mask=is_here, other=0.0)
    is_used = is_here & (weight != 0.0)
    return is_used, tl.where(is_used, weight, 0.0), tl.where(is_used, advantage, 0.0)


@triton.jit
def _clip(ratio, coefficient, low, high, DUAL: tl.constexpr, dual_clip):
    """Objective of a token, and its derivative by the ratio."""
    clipped = tl.minimum(tl.maximum(ratio, low), high)
    is_kept = coefficient * ratio <= coefficient * clipped
    objective = tl.minimum(coefficient * ratio, coefficient * clipped)
    is_inside = (ratio >= low) & (ratio <= high)
    slope = tl.where(is_kept | is_inside, coefficient, 0.0)
    if DUAL:
        floor = dual_clip * coefficient
        is_floored = (coefficient < 0.0) & (objective < floor)
        objective = tl.where(is_floored, floor, objective)
        slope = tl.where(is_floored, 0.0, slope)
    return objective, slope


@triton.jit(do_not_specialize=["num_sequences"])
def _policy_loss_kernel(
    logprobs,
    advantages,
    weights,
    olds,
    rollouts,
    references,
    boundaries,
    gradients,
    sums,
    num_sequences,
    low,
    high,
    dual_clip,
    tis_cap,
    kl_coef,
    RATIO: tl.constexpr,
    DUAL: tl.constexpr,
    HAS_TIS: tl.constexpr,
    KL: tl.constexpr,
    HAS_KL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sequence = tl.program_id(0)
    begin, end = tl.load(boundaries + sequence), tl.load(boundaries + sequence + 1)
    lanes = tl.arange(0, BLOCK)
    mean = 0.0
    count = 0.0
    slope_sum = 0.0
    if RATIO == SEQUENCE:
        differences = tl.zeros([BLOCK], tl.float32)
        used = tl.zeros([BLOCK], tl.float32)
        for first in range(begin, end, BLOCK):
            places, is_here = first + lanes, first + lanes < end
            is_used, _weight, _advantage = _is_used(weights, advantages, places, is_here)
            difference = tl.load(logprobs + places, mask=is_used, other=0.0) - tl.load(
                olds + places, mask=is_used, other=0.0
            )
            differences += difference
            used += is_used.to(tl.float32)
        count = tl.sum(used, 0)
        mean = tl.sum(differences, 0) / tl.maximum(count, 1.0)
        # a token's gradient needs the slopes of all tokens of the sequence
        slopes = tl.zeros([BLOCK], tl.float32)
        for first in range(begin, end, BLOCK):
            places, is_here = first + lanes, first + lanes < end
            is_used, weight, advantage = _is_used(weights, advantages, places, is_here)
            ratio = tl.exp(tl.zeros([BLOCK], tl.float32) + mean)
            _objective, slope = _clip(ratio, advantage * weight, low, high, DUAL, dual_clip)
            if HAS_TIS:
                old = tl.load(olds + places, mask=is_used, other=0.0)
                server = tl.load(rollouts + places, mask=is_used, other=0.0)
                server = tl.where(server != server, old, server)
                slope *= tl.minimum(tl.exp(old - server), tis_cap)
            slopes += slope * ratio
        slope_sum = tl.sum(slopes, 0) / tl.maximum(count, 1.0)
    loss = tl.zeros([BLOCK], tl.float32)
    used = tl.zeros([BLOCK], tl.float32)
    clips = tl.zeros([BLOCK], tl.float32)
    moves = tl.zeros([BLOCK], tl.float32)
    tis_sum = tl.zeros([BLOCK], tl.float32)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(begin, end, BLOCK):
        places, is_here = first + lanes, first + lanes < end
        is_used, weight, advantage = _is_used(weights, advantages, places, is_here)
        logprob = tl.load(logprobs + places, mask=is_used, other=0.0)
        old = tl.load(olds + places, mask=is_used, other=0.0)
        coefficient = advantage * weight
        difference = logprob - old
        ratio = tl.exp(difference)
        if RATIO == SEQUENCE:
            ratio = tl.exp(tl.zeros([BLOCK], tl.float32) + mean)
        if RATIO == NONE:
            objective = coefficient * logprob
            gradient = coefficient
            is_clipped = is_used & (coefficient != coefficient)
        else:
            objective, slope = _clip(ratio, coefficient, low, high, DUAL, dual_clip)
            gradient = slope * ratio
            is_clipped = ((coefficient > 0.0) & (ratio > high)) | ((coefficient < 0.0) & (ratio < low))
        tis = tl.where(is_used, 1.0, 0.0)
        if HAS_TIS:
            server = tl.load(rollouts + places, mask=is_used, other=0.0)
            server = tl.where(server != server, old, server)
            tis = tl.where(is_used, tl.minimum(tl.exp(old - server), tis_cap), 0.0)
            objective *= tis
            gradient *= tis
        if RATIO == SEQUENCE:
            gradient = tl.where(is_used, slope_sum, 0.0)
        token_loss = -objective
        gradient = -gradient
        if HAS_KL:
            x = logprob - tl.load(references + places, mask=is_used, other=0.0)
            if KL == K1:
                kl = x
                kl_slope = tl.zeros([BLOCK], tl.float32) + 1.0
            elif KL == K2:
                kl = x * x * 0.5
                kl_slope = x
            else:
                kl = tl.exp(-x) - 1.0 + x
                kl_slope = 1.0 - tl.exp(-x)
            token_loss += kl_coef * weight * kl
            gradient += kl_coef * weight * kl_slope
        tl.store(gradients + places, tl.where(is_used, gradient, 0.0), mask=is_here)
        loss += tl.where(is_used, token_loss, 0.0)
        used += is_used.to(tl.float32)
        clips += is_clipped.to(tl.float32)
        moves += tl.where(is_used, tl.exp(difference) - 1.0 - difference, 0.0)
        tis_sum += tis
        lowest = tl.minimum(lowest, tl.where(is_used, ratio, float("inf")))
        highest = tl.maximum(highest, tl.where(is_used, ratio, float("-inf")))
    out = sums + sequence
    tl.store(out, tl.sum(loss, 0))
    tl.store(out + num_sequences, tl.sum(used, 0))
    tl.store(out + 2 * num_sequences, tl.sum(clips, 0))
    tl.store(out + 3 * num_sequences, tl.sum(moves, 0))
    tl.store(out + 4 * num_sequences, tl.sum(tis_sum, 0))
    tl.store(out + 5 * num_sequences, tl.min(lowest, 0))
    tl.store(out + 6 * num_sequences, tl.max(highest, 0))


@triton.jit(do_not_specialize=["num_sequences"])
def _totals_kernel(sums, loss, metrics, num_sequences, BLOCK: tl.constexpr):
    """Over the sequences: the loss and four metrics are sums, the last two an extreme each."""
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
        result = tl.where(number == 5, tl.min(lowest, 0), tl.where(number == 6, tl.max(highest, 0), result))
        tl.store(metrics + number - 1, result)


@launches_on_its_device
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
    """The kernel's answer to `reference.loss_gradient_metrics`, which says the shapes."""
    num_sequences = len(boundaries_S) - 1
    gradient_R = torch.empty_like(logprobs_R)
    sums_7S = torch.empty(NUM_SUMS, num_sequences, dtype=torch.float32, device=logprobs_R.device)
    if num_sequences:
        _policy_loss_kernel[(num_sequences,)](
            logprobs_R,
            advantages_R,
            weights_R,
            old_R,
            logprobs_R if rollout_R is None else rollout_R,
            logprobs_R if reference_R is None else reference_R,
            boundaries_S,
            gradient_R,
            sums_7S,
            num_sequences,
            1 - settings.eps_clip,
            1 + settings.eps_clip_high,
            settings.dual_clip or 0.0,
            settings.tis_cap or 0.0,
            settings.kl_coef,
            RATIO=RATIOS.index(settings.ratio),
            DUAL=settings.dual_clip is not None and settings.ratio != "none",
            HAS_TIS=settings.tis_cap is not None and rollout_R is not None,
            KL=KLS.index(settings.kl_kind),
            HAS_KL=bool(settings.kl_coef) and reference_R is not None,
            BLOCK=BLOCK,
            num_warps=WARPS,
            **({"maxnreg": MAX_REGISTERS} if torch.version.hip is None else {}),
        )
    loss, metrics_6 = logprobs_R.new_empty(()), logprobs_R.new_empty(NUM_SUMS - 1)
    _totals_kernel[(NUM_SUMS,)](sums_7S, loss, metrics_6, num_sequences, BLOCK=TOTALS_BLOCK, num_warps=WARPS)
    return loss, gradient_R, metrics_6
