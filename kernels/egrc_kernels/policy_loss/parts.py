"""What the kernel does with a token: its objective, its KL, and how far it is trusted. README has the maths."""

import triton
import triton.language as tl

NONE, TOKEN, SEQUENCE, CAPPED = (tl.constexpr(i) for i in range(4))
K1, K2, K3 = (tl.constexpr(i) for i in range(3))
NOTHING, BY_MEAN, BY_PRODUCT, BY_WORST = (tl.constexpr(i) for i in range(4))
"""Which ratio of a sequence is looked at."""


@triton.jit
def is_used_at(weights, advantages, places, is_here):
    """Which tokens count, their weights and their advantages; zero for the others."""
    weight = tl.load(weights + places, mask=is_here, other=0.0)
    advantage = tl.load(advantages + places, mask=is_here, other=0.0)
    is_used = is_here & (weight != 0.0)
    return is_used, tl.where(is_used, weight, 0.0), tl.where(is_used, advantage, 0.0)


@triton.jit
def clip(ratio, coefficient, low, high, DUAL: tl.constexpr, dual_clip):
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


@triton.jit
def objective_of(ratio, logprob, coefficient, is_used, low, high, dual_clip, RATIO: tl.constexpr, DUAL: tl.constexpr):
    """Objective of a token, its derivative by the log-prob, and whether the clip or the cap acts."""
    if RATIO == NONE:
        objective = coefficient * logprob
        gradient = coefficient
        is_clipped = is_used & (coefficient != coefficient)
    elif RATIO == CAPPED:
        gradient = coefficient * tl.minimum(ratio, high)
        objective = gradient * logprob
        is_clipped = is_used & (ratio > high)
    else:
        objective, slope = clip(ratio, coefficient, low, high, DUAL, dual_clip)
        gradient = slope * ratio
        is_clipped = ((coefficient > 0.0) & (ratio > high)) | ((coefficient < 0.0) & (ratio < low))
    return objective, gradient, is_clipped


@triton.jit
def estimate(x, KL: tl.constexpr, BLOCK: tl.constexpr):
    """Estimate of the KL and its derivative by x = log pi - log reference."""
    if KL == K1:
        kl = x
        kl_slope = tl.zeros([BLOCK], tl.float32) + 1.0
    elif KL == K2:
        kl = x * x * 0.5
        kl_slope = x
    else:
        kl = tl.exp(-x) - 1.0 + x
        kl_slope = 1.0 - tl.exp(-x)
    return kl, kl_slope


@triton.jit
def difference_of(olds, rollouts, places, is_used):
    """Log of old to server probability, 0 where the server's is unknown; and whether it is known."""
    old = tl.load(olds + places, mask=is_used, other=0.0)
    server = tl.load(rollouts + places, mask=is_used, other=0.0)
    is_known = is_used & (server == server)
    return tl.where(is_known, old - server, 0.0), is_known


@triton.jit
def trusted(olds, rollouts, places, is_used, tis_cap, least, most, HAS_TIS: tl.constexpr, TOKEN_MASK: tl.constexpr):
    """A token's weight of importance, and whether it is masked."""
    weight = tl.where(is_used, 1.0, 0.0)
    is_masked = is_used & (weight > weight)  # false
    if HAS_TIS or TOKEN_MASK:
        shift, _is_known = difference_of(olds, rollouts, places, is_used)
        ratio = tl.exp(shift)
        if HAS_TIS:
            weight = tl.where(is_used, tl.minimum(ratio, tis_cap), 0.0)
        if TOKEN_MASK:
            is_masked = is_used & ((ratio < least) | (ratio > most))
    return weight, is_masked


@triton.jit
def trusted_sequence(
    weights, advantages, olds, rollouts, begin, end, mask_by, least, most, tis_by, tis_cap, BLOCK: tl.constexpr
):
    """Of a sequence: its weight of importance, and 1 where its ratio of old to server probability is beyond bounds."""
    lanes = tl.arange(0, BLOCK)
    shifts = tl.zeros([BLOCK], tl.float32)
    known = tl.zeros([BLOCK], tl.float32)
    low = tl.zeros([BLOCK], tl.float32)
    high = tl.zeros([BLOCK], tl.float32)
    for first in range(begin, end, BLOCK):
        places, is_here = first + lanes, first + lanes < end
        is_used, _weight, _advantage = is_used_at(weights, advantages, places, is_here)
        shift, is_known = difference_of(olds, rollouts, places, is_used)
        shifts += shift
        known += is_known.to(tl.float32)
        low = tl.minimum(low, shift)
        high = tl.maximum(high, shift)
    product = tl.sum(shifts, 0)
    mean = product / tl.maximum(tl.sum(known, 0), 1.0)
    whole = tl.where(mask_by == BY_PRODUCT, product, mean)
    lowest = tl.exp(tl.where(mask_by == BY_WORST, tl.min(low, 0), whole))
    highest = tl.exp(tl.where(mask_by == BY_WORST, tl.max(high, 0), whole))
    is_beyond = (mask_by != NOTHING) & ((lowest < least) | (highest > most))
    tis = tl.minimum(tl.exp(tl.where(tis_by == BY_PRODUCT, product, mean)), tis_cap)
    return tl.where(tis_by == NOTHING, 1.0, tis), tl.where(is_beyond, 1.0, 0.0)
