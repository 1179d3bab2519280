"""What a gold answer is once it is understood: a type, parts, and an exact value where there is one."""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from egrc_mega.errors import DataError
from egrc_mega.grading.markup import compact
from egrc_mega.grading.syntax import Node
from egrc_mega.grading.words import words_of


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


NUMERIC = frozenset({AnswerType.INTEGER, AnswerType.RATIONAL, AnswerType.DECIMAL, AnswerType.PERCENT})
"""Types whose value is exact."""


class GoldError(DataError):
    """A gold that cannot be graded; the message is the reason, for the quarantine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """A gold answer that is understood."""

    text: str
    """As the file has it; of a part, in plain notation."""
    type: AnswerType
    plain: str = ""
    """In one notation, without its name and unit (`markup.plain`)."""
    whole: str = ""
    """In one notation, with name and unit."""
    value: Fraction | None = None
    """The exact value of a numeral; of a percentage the number before the sign."""
    tree: Node | None = None
    """Of an expression."""
    name: str | None = None
    """What it is the value of: the `x` of `x=5`; None: it has no name."""
    unit: str | None = None
    """Canonical name of its unit; None: it has none."""
    error: Fraction | None = None
    """Absolute tolerance that the set states."""
    parts: tuple["Gold", ...] = ()
    """Of a tuple, list or matrix (row by row): all are wanted."""
    num_columns: int = 0
    """Of a matrix."""
    alternatives: tuple["Gold", ...] = ()
    """Other golds, each of which is as right as this one."""

    @property
    def key(self) -> str:
        """Equal for golds of the same value however they are spelled: what tells a repetition from a contradiction."""
        if self.parts:
            keys = [part.key for part in self.parts]
            return f"{self.type}{self.num_columns}({','.join(sorted(keys) if self.type == AnswerType.LIST else keys)})"
        if self.value is not None:
            return f"{self.value}{'%' if self.type == AnswerType.PERCENT else ''}"
        if self.type in (AnswerType.WORDS, AnswerType.CHOICE, AnswerType.TIME):
            return words_of(self.plain)
        return compact(self.plain).replace(" ", "")
