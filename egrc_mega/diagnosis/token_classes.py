"""What kind of token each one is, by its place in the text: connector, digit, operator, LaTeX, special or content."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from egrc_mega.diagnosis.connectors import CONNECTORS, REDUNDANT, connectors_in
from egrc_mega.types import IntArray

CLASSES = ("content", "operator", "digit", "latex", "step", "contrast", "recheck", "special")
"""The connectors are told apart by their kind; of two classes that a token could have, the later one counts."""
CONNECTOR_CLASSES = ("step", "contrast", "recheck")
LATEX = re.compile(r"\\(?:[A-Za-z]+|.)|[{}$]", re.DOTALL)
OPERATORS = frozenset("+-*/=<>^\u00d7\u00f7\u00b7\u00b1\u2264\u2265\u2260\u2248")
"""ASCII, then times, divided by, dot, plus or minus, at most, at least, unequal, about."""


def classes_of(
    text: str, token_ends: IntArray, output_ids: IntArray, special_ids: Sequence[int]
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """Each token's class, int8[O], an index into CLASSES; and whether a redundant connector begins in it, bool[O].

    A connector of several tokens is counted where it begins, for there it is decided.

    Args:
        text: the decoded output.
        token_ends: int32[O], where in `text` each token ends.
        special_ids: of the tokenizer.
    """
    ends = token_ends.tolist()
    pieces = [text[begin:end].strip() for begin, end in zip([0, *ends], ends, strict=False)]
    found = np.array([_of_piece(piece) for piece in pieces], np.int8)
    for command in LATEX.finditer(text):
        first, last = np.searchsorted(token_ends, [command.start(), command.end() - 1], side="right")
        found[first : last + 1] = CLASSES.index("latex")
    is_redundant = np.zeros(len(ends), np.bool_)
    for connector in connectors_in(text):
        place = int(np.searchsorted(token_ends, connector.begin, side="right"))
        if place < len(ends):
            found[place] = CLASSES.index(CONNECTORS[connector.name][0])
            is_redundant[place] = connector.name in REDUNDANT
    found[np.isin(output_ids, list(special_ids))] = CLASSES.index("special")
    return found, is_redundant


def _of_piece(piece: str) -> int:
    if piece.isdecimal():
        return CLASSES.index("digit")
    return CLASSES.index("operator") if piece and OPERATORS.issuperset(piece) else CLASSES.index("content")
