"""Finds responses that repeat themselves word by word, and says how much of a text has been said before.

A loop is a unit of words and signs that stands at least MIN_REPEATS times in a row, over at least MIN_SPAN words and
signs. Enumerations, tables and a refrain change a number or a word from line to line, or end sooner.
Of 120 public responses to AIME24 (docs/diagnosis.md) the shortest loop spans 1,967 words and signs, and the longest
repetition in a row beside the loops 90.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_SPAN, MIN_REPEATS = 200, 4
"""In words and signs, and in repeats."""
MAX_WORDS = 2**18
"""Words and signs of a text that are looked at: eight times the longest response of the models in use."""
SHOWN = 80
"""Characters of the unit that are kept."""
WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")

Words = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """The longest loop of a text."""

    begin: int
    """The character at which it begins."""
    period: int
    """Words and signs of the unit."""
    repeats: float
    """How often the unit stands there."""
    span: int
    """Words and signs of all repeats."""
    unit: str
    """The text of the unit, its first SHOWN characters."""


def words_of(text: str) -> Words:
    """[W] int32: the words and signs of a text, at most MAX_WORDS, each as the number of its first appearance."""
    numbers: dict[str, int] = {}
    found = islice(WORD_OR_SIGN.finditer(text), MAX_WORDS)
    return np.fromiter((numbers.setdefault(word[0].lower(), len(numbers)) for word in found), np.int32)


def find_loop(text: str, words_W: Words) -> Loop | None:
    """The longest loop of a text whose words are `words_W`, by the shortest unit; None: it has none."""
    best: _Run | None = None
    for period in range(1, len(words_W) // MIN_REPEATS + 1):
        run = _longest_run(words_W, period, best)
        if run and (best is None or run.span > best.span):
            best = run
    if best is None:
        return None
    places = [found.span() for found in islice(WORD_OR_SIGN.finditer(text), best.begin, best.begin + best.period)]
    return Loop(
        begin=places[0][0],
        period=best.period,
        repeats=best.span / best.period,
        span=best.span,
        unit=text[places[0][0] : places[-1][1]][:SHOWN],
    )


class _Run(NamedTuple):
    """Words that come again a period later; all in words."""

    begin: int
    period: int
    span: int


def _longest_run(words_W: Words, period: int, best: _Run | None) -> _Run | None:
    """The longest loop of this period; None where there is none, or none but the best once more."""
    needed = max(MIN_SPAN, MIN_REPEATS * period) - period
    stride = needed // 4
    # a run that is long enough holds at least three probes in a row: most periods are ruled out by a few comparisons,
    # the fewer the longer they are
    probe = words_W[:-period:stride] == words_W[period::stride]
    hits = stride * np.flatnonzero(probe[:-2] & probe[1:-1] & probe[2:])
    if not len(hits) or (best and period % best.period == 0 and _lie_within(hits, best)):
        return None
    breaks = np.flatnonzero(words_W[:-period] != words_W[period:])
    edges = np.concatenate([[-1], breaks, [len(words_W) - period]])
    lengths = np.diff(edges) - 1
    longest = int(np.argmax(lengths))
    length = int(lengths[longest])
    return _Run(int(edges[longest]) + 1, period, length + period) if length >= needed else None


def _lie_within(hits: NDArray[np.intp], run: _Run) -> bool:
    return bool(run.begin <= hits[0] and hits[-1] < run.begin + run.span)


def repetition(words_W: Words, n: int = 4) -> float:
    """Share of the runs of n words and signs that have stood in the text before; 0.0 where there are none."""
    num_runs = len(words_W) - n + 1
    if num_runs <= 0:
        return 0.0
    # sums of random 64-bit numbers instead of the runs themselves: two runs that differ agree once in 2^64
    numbers = np.random.default_rng(0).integers(0, 2**64, (n, int(words_W.max()) + 1), np.uint64)
    hashes = np.zeros(num_runs, np.uint64)
    for i in range(n):
        hashes += numbers[i, words_W[i : i + num_runs]]
    return 1 - len(np.unique(hashes)) / num_runs
