"""Functions of a response's length: f with f(0) = 1 and f(L) = r (paper 3.3.3), and penalties beyond a length."""

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from egrc_mega.sections.base import Section


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
