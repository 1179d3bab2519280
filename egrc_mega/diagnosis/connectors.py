"""Finds the connectors of a text: words that open another step of reasoning, or check the one before.

The paper names connectors among the tokens of highest entropy (section 4.3, fig. 3e): each one that is sampled more
often makes the chain longer. The list is that of methods 4, item 5.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

Kind = Literal["step", "contrast", "recheck"]

CONNECTORS: Mapping[str, tuple[Kind, str]] = {
    "So": ("step", "so"),
    "Then": ("step", "then"),
    "Therefore": ("step", "therefore"),
    "Thus": ("step", "thus"),
    "Hence": ("step", "hence"),
    "Similarly": ("step", "similarly"),
    "Next": ("step", "next"),
    "Now": ("step", "now"),
    "as a result": ("step", r"as\s+a\s+result"),
    "But": ("contrast", "but"),
    "However": ("contrast", "however"),
    "Wait": ("recheck", "wait"),
    "Hmm": ("recheck", "hmm+"),
    "Alternatively": ("recheck", "alternatively"),
    "let me": ("recheck", r"let\s+me"),
    "double-check": ("recheck", r"double[-\s]check"),
    "verify": ("recheck", "verify"),
}
"""Name -> its kind, and the pattern that it is found by in any case of letters."""
REDUNDANT = ("Wait", "Hmm", "Alternatively")
"""What the miniature's base says before it checks a step again (methods 5.1): compression takes these out first."""
NAMES = tuple(CONNECTORS)
PATTERN = re.compile(rf"(?<!\w)(?:{'|'.join(f'({pattern})' for _kind, pattern in CONNECTORS.values())})(?!\w)", re.I)
LOOK_BACK = 24
SKIPPED = " \t\r\n\"'\u201c\u201d\u2018\u2019()[]*_#>-"
"""Blanks and markup that may stand between the end of a sentence and the word."""
SENTENCE_ENDS = ".!?;:…"


class Connector(NamedTuple):
    """One place where a connector stands."""

    name: str
    begin: int
    """In characters."""
    starts_sentence: bool
    """Before it stands nothing, the end of a sentence or clause, a line end, or a think tag."""


def connectors_in(text: str) -> Iterator[Connector]:
    """Every connector of a text, in order; upper and lower case are one."""
    for found in PATTERN.finditer(text):
        assert found.lastindex is not None
        begin = found.start()
        yield Connector(NAMES[found.lastindex - 1], begin, _starts_sentence(text, begin))


def _starts_sentence(text: str, begin: int) -> bool:
    before = text[max(0, begin - LOOK_BACK) : begin]
    bare = before.rstrip(SKIPPED)
    if "\n" in before[len(bare) :]:
        return True
    # a tag's own bracket is markup too
    return not bare or bare[-1] in SENTENCE_ENDS or bare.endswith(("<think", "</think"))
