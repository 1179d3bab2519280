"""Whether a response repeats itself: by its words, by its tokens, and token by token."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from egrc_mega.types import Sample

IntArray = npt.NDArray[np.int32]


def repeats_words(sample: Sample, times: int = 10, longest: int = 30, letters: int = 120) -> bool:
    """Whether up to `longest` words stand so many times in a row, or one word has so many letters (AutoThink).

    A recorded batch states it of a sample whose text it has not kept.
    """
    if "repetitive" in sample.ask.facts:
        return bool(sample.ask.facts["repetitive"])
    words = sample.text.split()
    if any(len(word) >= letters for word in words):
        return True
    return any(_most_in_a_row(words, n) >= times for n in range(1, longest + 1))


def _most_in_a_row(words: Sequence[str], n: int) -> int:
    """How often the same n words follow each other, the text cut into pieces of n words from its begin."""
    pieces = [tuple(words[i : i + n]) for i in range(0, len(words) - n + 1, n)]
    return max((len(list(run)) for _piece, run in groupby(pieces)), default=0)


def repeats_tokens(sample: Sample) -> bool:
    """Whether some run of tokens stands several times in a response (Laser): 4 tokens 4 times where it is long.

    A recorded batch states it of a sample whose tokens it has not kept.
    """
    if "repetitive" in sample.ask.facts:
        return bool(sample.ask.facts["repetitive"])
    ids = sample.completion.output_ids.tolist()
    n = 2 if len(ids) < 30 else 3 if len(ids) < 100 else 4
    times = 2 if len(ids) < 50 else 3 if len(ids) < 200 else 4
    if len(ids) <= 8:
        return False
    runs = Counter(run for run in zip(*(ids[i:] for i in range(n)), strict=False) if len(set(run)) > 1)
    return max(runs.values(), default=0) >= times


def repeated_tokens(output_ids: IntArray, n: int) -> npt.NDArray[np.bool_]:
    """The tokens of every run of n tokens that has stood in the response before, bool[O] (Demystifying long CoT)."""
    ids, seen = output_ids.tolist(), set()
    repeated = np.zeros(len(ids), np.bool_)
    for start, run in enumerate(zip(*(ids[i:] for i in range(n)), strict=False)):
        if run in seen:
            repeated[start : start + n] = True
        seen.add(run)
    return repeated
