"""Advantages brought to mean 0 and deviation 1 over all tokens of the batch (REINFORCE++, arXiv 2501.03262).

A long response weighs more in both statistics, because it has more tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from egrc_mega.methods.method import is_graded
from egrc_mega.methods.records import Credit
from egrc_mega.types import Group, Sample


def whitened_over_tokens(
    groups: Sequence[Group], rows: Sequence[Sequence[Credit]], eps: float = 1e-8
) -> list[list[Credit]]:
    """A' = (A - mean A) / sqrt(var A + eps), mean and (unbiased) variance over the tokens that the policy sampled.

    A response whose A is exactly 0, because its group agrees, is moved like all others; where all A are equal, all A'
    are 0. Ungraded samples stay as they are and count in no statistic.

    Args:
        rows: credits whose advantage is one number, or one for each token.
    """
    sizes = [[int(s.completion.sampled.sum()) if is_graded(s) else 0 for s in group.samples] for group in groups]
    pairs = [
        pair
        for group, row in zip(groups, rows, strict=True)
        for sample, credit in zip(group.samples, row, strict=True)
        if is_graded(sample)
        for pair in _counted(credit, sample)
    ]
    total = sum(n for n, _a in pairs)
    if total < 2 or len({a for n, a in pairs if n}) < 2:
        return [[replace(credit, advantage=0.0, kept=False) for credit in row] for row in rows]
    mean = math.fsum(n * a for n, a in pairs) / total
    variance = math.fsum(n * (a - mean) ** 2 for n, a in pairs) / (total - 1)
    scale = 1 / math.sqrt(variance + eps)
    return [
        [_moved(credit, mean, scale) if n else credit for n, credit in zip(ns, row, strict=True)]
        for ns, row in zip(sizes, rows, strict=True)
    ]


def _counted(credit: Credit, sample: Sample) -> list[tuple[int, float]]:
    """How many of the sampled tokens have which advantage."""
    sampled = sample.completion.sampled
    if isinstance(credit.advantage, np.ndarray):
        return [(1, float(advantage)) for advantage in credit.advantage[sampled]]
    return [(int(sampled.sum()), float(credit.advantage))]


def _moved(credit: Credit, mean: float, scale: float) -> Credit:
    advantage = (credit.advantage - mean) * scale
    return replace(credit, advantage=advantage, kept=bool(np.any(advantage)))
