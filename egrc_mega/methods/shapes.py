"""Functions of a response's length: f with f(0) = 1 and f(L) = r (paper 3.3.3), and penalties beyond a length."""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from egrc_mega.sections.base import Section
from egrc_mega.types import Sample


class ShapeSection(Section):
    """Length shaping f of a positive sample's advantage, f(0) = 1 and f(len) = r (paper 3.3.3)."""

    kind: Literal["exp", "linear", "cosine", "none"] = "exp"
    """exp is the paper's; linear and cosine are its ablations; none is f = 1."""
    r: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Value at |y| = len."""
    len: PositiveInt | None = None
    """None: clip_len."""


def shaped(section: ShapeSection, clip_len: int, length: int) -> float:
    """The factor f(|y|) of a section whose `len` defaults to the stage's clip_len."""
    span, r = section.len or clip_len, section.r
    if section.kind == "exp":
        return math.exp(-(-math.log(r) / span) * length)
    if section.kind == "linear":
        return 1 - (1 - r) * length / span
    if section.kind == "cosine":
        return r + (1 - r) / 2 * (1 + math.cos(math.pi * length / span))
    return 1.0


def linear_over(length: int, start: float, unit: float, slope: float, floor: float) -> float:
    """0 up to `start` tokens, then falling by `slope` per `unit` tokens, never below `floor`.

    EGRC's R_length (paper 3.4) and DAPO's overlong penalty (eq. 13) are both this.
    """
    return max(floor, -slope * max(0, length - start) / unit)


def sigmoid_of_length(samples: Sequence[Sample], ddof: Literal[0, 1], eps: float) -> list[float]:
    """How long each right answer is among the right ones: sigmoid((|y| - mean) / (std + eps)); 0 for any other.

    Args:
        ddof: 0 for the population's deviation, 1 for the unbiased one; of one right answer it is 0.

    Source: Arora and Zanette, arXiv 2502.04463.
    """
    lengths = [float(sample.length) for sample in samples if sample.right]
    if not lengths:
        return [0.0] * len(samples)
    mean, std = fmean(lengths), stdev(lengths) if ddof and len(lengths) > 1 else pstdev(lengths)
    return [1 / (1 + math.exp(-(s.length - mean) / (std + eps))) if s.right else 0.0 for s in samples]


def among_own_kind(lengths: Sequence[int], kinds: Sequence[bool]) -> list[float]:
    """Every length as z = (|y| - mean) / std among those of its kind; the (unbiased) std is at least 1e-6.

    A length that is alone of its kind has z = 0.

    Source: AutoThink, arXiv 2505.10832.
    """
    z = [0.0] * len(lengths)
    for kind in set(kinds):
        own = [i for i, each in enumerate(kinds) if each == kind]
        if len(own) > 1:
            mean, std = fmean(lengths[i] for i in own), max(stdev(lengths[i] for i in own), 1e-6)
            z = [(lengths[i] - mean) / std if i in own else value for i, value in enumerate(z)]
    return z
