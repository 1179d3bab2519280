"""Means over seeds with their standard errors, and differences taken seed by seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    error: float | None
    """Standard error: standard deviation over the seeds (ddof 1) by the root of their number; None for one seed."""
    n: int
    """Seeds."""


def estimate(values: Mapping[int, float | None]) -> Estimate | None:
    """Of one value a seed; seeds without one are left out, and None is returned where no seed has one."""
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Estimate(fmean(known), error, len(known))


def differences(values: Mapping[int, float | None], others: Mapping[int, float | None]) -> dict[int, float | None]:
    """`values` less `others`, for the seeds that have both: what the seed itself does cancels out."""
    pairs = {seed: (value, others.get(seed)) for seed, value in values.items()}
    return {seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None}


def ratios(values: Mapping[int, float | None], others: Mapping[int, float | None]) -> dict[int, float | None]:
    """`values` by `others`, seed by seed; seeds whose divisor is 0 are left out."""
    pairs = {seed: (value, others.get(seed)) for seed, value in values.items()}
    return {seed: a / b for seed, (a, b) in pairs.items() if a is not None and b}
