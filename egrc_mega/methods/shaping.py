"""Length shaping f(|y|) with f(0) = 1 and f(L) = r: `exp` is the paper's (3.3.3), linear and cosine its ablations."""

import math
from collections.abc import Callable

from egrc_mega.config.schema import ShapeSection


def shaping(section: ShapeSection, clip_len: int) -> Callable[[int], float]:
    """f of a section; its `len` defaults to the stage's clip_len."""
    span, r = section.len or clip_len, section.r
    rate = -math.log(r) / span
    kinds: dict[str, Callable[[int], float]] = {
        "exp": lambda length: math.exp(-rate * length),
        "linear": lambda length: 1 - (1 - r) * length / span,
        "cosine": lambda length: r + (1 - r) / 2 * (1 + math.cos(math.pi * length / span)),
        "none": lambda length: 1.0,
    }
    return kinds[section.kind]
