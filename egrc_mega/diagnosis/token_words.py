"""Word clouds: tokens that occur often enough, by the mean entropy of the places at which they stand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from egrc_mega.data.tokenizer import Tokenizer
from egrc_mega.types import IntArray

CLOUD_WORDS = 100
MIN_COUNT, SMALL_RUN, SMALL_MIN_COUNT = 100, 100_000, 5
"""A token must stand so often, or, among fewer tokens than a small run has, so often (methods 4)."""


def clouds(ids_N: IntArray, entropy_N: NDArray[np.float64], tokenizer: Tokenizer) -> dict[str, list[dict[str, Any]]]:
    """The words of highest and of lowest mean entropy: `text`, `entropy` in nats, `count`.

    Tokens are merged whose texts differ by the blanks around them; a blank token is written as Python does.
    """
    found, place, counts = np.unique(ids_N, return_inverse=True, return_counts=True)
    sums = np.bincount(place, entropy_N)
    merged: dict[str, list[float]] = {}
    for token, total, count in zip(found.tolist(), sums.tolist(), counts.tolist(), strict=True):
        decoded = str(tokenizer.decode([token]))
        entry = merged.setdefault(decoded.strip() or repr(decoded)[1:-1], [0.0, 0])
        entry[0] += total
        entry[1] += count
    least = MIN_COUNT if len(ids_N) >= SMALL_RUN else SMALL_MIN_COUNT
    words: list[dict[str, Any]] = [
        {"text": text, "entropy": total / count, "count": int(count)}
        for text, (total, count) in merged.items()
        if count >= least
    ]
    words.sort(key=lambda word: (-word["entropy"], word["text"]))
    return {"high": words[:CLOUD_WORDS], "low": words[::-1][:CLOUD_WORDS]}
