"""The gold answer of a row: where it stands, and what the columns beside it say of it."""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from egrc_mega.data.row import Numeral, RowError, answer_text, as_numeral, value_of
from egrc_mega.grading.extract import last_box
from egrc_mega.types import Hints

MAX_CHARACTERS = 1000
"""Of an answer: what is longer is a solution, or a mistake."""
MARKER = "####"
"""GSM8K writes the answer after it, at the end of the solution."""
SOLUTION = "solution"
"""Column in which the answer is looked for where it has no column of its own, or none in this row."""
BOX = re.compile(r"\\(?:boxed|fbox)\s*")
MARKUP = re.compile(
    r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|displaystyle|left|right|quad|qquad)(?![A-Za-z])|\\[^A-Za-z]"
)
EMPTY_SET = re.compile(r"\\\{\s*\\\}")


def answer_of(row: Mapping[str, Any], key: str) -> str:
    """The answer's text. A number is taken as its text, a list of one as its element, a longer one as JSON.

    Where the column is missing or null, the answer is what stands after `####` or in the last box of `solution`.

    Raises:
        RowError: there is no answer, or none that a grader could use.
    """
    value = _value(row, key)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple) and value:
        return json.dumps([_element(element, key) for element in value], ensure_ascii=False)
    return _element(value, key)


def hints_of(row: Mapping[str, Any], hints: Hints) -> Hints:
    """The set's hints with what OlympiadBench's columns say of this row; they count where `is_multiple_answer` stands.

    Raises:
        RowError: `error` is no number.
    """
    if not isinstance(row.get("is_multiple_answer"), bool):
        return hints
    unit, error = row.get("unit"), as_numeral(row.get("error"))
    if isinstance(error, str) and error.strip():
        error = Numeral(error.strip())
    return replace(
        hints,
        unit=unit.strip() if isinstance(unit, str) and unit.strip() else None,
        error=error.plain("error") if isinstance(error, Numeral) else None,
        multiple=row["is_multiple_answer"],
    )


def _value(row: Mapping[str, Any], key: str) -> Any:
    try:
        value = value_of(row, key)
        missing = None if value is not None else RowError(f"{key!r} must be a non-empty string or a number, found None")
    except RowError as error:
        missing = error
    if missing is None:
        return value
    found = from_solution(row.get(SOLUTION))
    if found is None:
        raise missing
    return found


def from_solution(solution: Any) -> str | None:
    """What stands after the last `####` of a solution, or in its last box; None: it has neither."""
    if not isinstance(solution, str):
        return None
    _before, marker, after = solution.rpartition(MARKER)
    return after if marker else last_box(solution)


def _element(value: Any, key: str) -> str:
    value = as_numeral(value)
    if isinstance(value, Numeral):
        return value.plain(key)
    if not isinstance(value, str):
        raise RowError(f"{key!r} must be a non-empty string or a number, found {value!r:.80}")
    if MARKER in value or BOX.search(value):
        value = from_solution(value) or value
    found = answer_text(value, key)
    if len(found) > MAX_CHARACTERS:
        raise RowError(f"{key!r} has {len(found)} characters, more than {MAX_CHARACTERS}: is it the solution?")
    if not _says_something(found):
        raise RowError(f"{key!r} says nothing once dollars, spaces and punctuation are taken off: {value!r:.80}")
    return found


def _says_something(text: str) -> bool:
    """Whether a letter, a digit or a symbol is left without markup; `\\{\\}`, the empty set, counts."""
    left = MARKUP.sub("", text)
    return EMPTY_SET.search(text) is not None or any(
        c.isalnum() or (unicodedata.category(c) in ("Sm", "So") and c not in "+<=>|~") for c in left
    )
