"""Understands a gold answer when it is read: its type, its parts and its exact value, or why it cannot be graded."""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from egrc_mega.errors import DataError
from egrc_mega.types import NO_HINTS, Hints


class AnswerType(StrEnum):
    """What kind of answer a gold is."""

    INTEGER = "integer"
    RATIONAL = "rational"
    DECIMAL = "decimal"
    PERCENT = "percent"
    CLOSED_FORM = "closed form"
    EXPRESSION = "expression"
    EQUATION = "equation"
    INEQUALITY = "inequality"
    INTERVAL = "interval"
    TUPLE = "tuple"
    LIST = "list"
    MATRIX = "matrix"
    RATIO = "ratio"
    TIME = "time"
    BASE = "base"
    CHOICE = "choice"
    WORDS = "words"


class GoldError(DataError):
    """A gold that cannot be graded; the message is the reason, for the quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A gold answer that is understood."""

    text: str
    """As the file has it."""
    type: AnswerType
    value: Fraction | None = None
    """The exact value of a numeral; of a percentage the number before the sign."""
    unit: str | None = None
    """Canonical name of its unit; None: it has none."""
    parts: tuple["Gold", ...] = ()
    """Of a tuple, list, union or matrix: all are wanted."""
    alternatives: tuple["Gold", ...] = ()
    """Other golds, each of which is as right as this one."""

    @property
    def key(self) -> str:
        """Equal for golds of the same value however they are spelled: what tells a repetition from a contradiction."""
        return self.text if self.value is None else f"{(self.type == AnswerType.PERCENT and '%') or ''}{self.value}"


@lru_cache(maxsize=65536)
def understand(text: str, hints: Hints = NO_HINTS) -> Gold:
    """The gold behind a text. A text that is a list of texts (JSON or Python) is taken as the profile says.

    Raises:
        GoldError: it cannot be graded; the message says why.
    """
    if not text.strip():
        raise GoldError("the answer is empty")
    try:
        value = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        return Gold(text=text, type=AnswerType.EXPRESSION)
    return Gold(text=text, type=AnswerType.INTEGER if value.denominator == 1 else AnswerType.RATIONAL, value=value)
