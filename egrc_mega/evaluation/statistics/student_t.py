"""Student's t: how much wider an interval is where the spread is estimated from a few problems."""

import math
from functools import lru_cache

MANY = 2000
"""Degrees of freedom from which on the normal distribution stands in; the quantiles differ by less than 0.0013."""


def t_probability(t: float, freedom: int) -> float:
    """P(|T| <= t) for an integer number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(theta)
    is_odd = freedom % 2
    # the series runs over cos, cos^3, ... for odd numbers and over 1, cos^2, ... for even ones
    term, total = (cosine, cosine) if is_odd else (1.0, 1.0)
    for power in range(3 if is_odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    if not is_odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + (math.sin(theta) * total if freedom > 1 else 0.0))


@lru_cache(maxsize=256)
def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t with P(|T| <= t) = confidence, to 1e-9; at most `MANY` degrees of freedom are told apart."""
    freedom = min(freedom, MANY)
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if t_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2
