"""Makes problems of rows; a malformed row is quarantined with file, line and reason, never skipped."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from egrc_mega.data.quarantine import BadRow, set_aside
from egrc_mega.data.source import SOURCES
from egrc_mega.errors import DataError
from egrc_mega.sections.data import DataSection
from egrc_mega.types import Problem


class _RowError(ValueError):
    """Why one row is bad."""


def read_problems(path: Path, section: DataSection, quarantine_path: Path) -> list[Problem]:
    """Every good row of a file, in order; the bad ones go to the quarantine file.

    A row is bad when it is not a JSON object in UTF-8, misses one of the section's keys, holds the wrong type or an
    empty value there, or repeats an earlier problem with another answer. A problem repeated with the same answer is
    good: data sets do that to weigh it. Blank lines are no rows.

    Raises:
        DataError: no such file, no good row, or a larger share of bad rows than the section allows.
    """
    source = SOURCES[section.source.source](section.source)
    good: list[Problem] = []
    bad: list[BadRow] = []
    first_with: dict[str, Problem] = {}
    for line, raw in source.rows(path):
        try:
            problem = _problem(f"{path.name}:{line}", raw, section)
            _refuse_contradiction(problem, first_with.setdefault(problem.text, problem))
            good.append(problem)
        except _RowError as error:
            bad.append(BadRow(str(path), line, str(error)))
    set_aside(bad, quarantine_path)
    _require_enough(path, section, good, bad, quarantine_path)
    return good


def _problem(key: str, raw: bytes | dict[str, Any], section: DataSection) -> Problem:
    row = _parsed(raw) if isinstance(raw, bytes) else raw
    if not isinstance(row, dict):
        raise _RowError(f"a JSON object is expected, this is a {type(row).__name__}")
    for name in (section.prompt_key, section.answer_key, *section.facts):
        if name not in row:
            raise _RowError(f"key {name!r} is missing; the row has {sorted(row)!r:.200}")
    facts = {name: _number(row, name) for name in section.facts}
    return Problem(key=key, text=_text(row, section.prompt_key), answer=_answer(row, section.answer_key), facts=facts)


def _number(row: dict[str, Any], key: str) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _RowError(f"{key!r} must be a finite number, found {value!r:.80}")
    return float(value)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _RowError(f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1}") from error
    except (ValueError, RecursionError) as error:
        raise _RowError(f"not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _text(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise _RowError(f"{key!r} must be a non-empty string, found {value!r:.80}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _RowError(f"{key!r} holds half a character (a lone surrogate): {value!r:.80}")
    return value.strip()


def _answer(row: dict[str, Any], key: str) -> str:
    """Numbers are taken as their text: 142.0, as AMC's answers are stored, is "142", and 1e-07 is "0.0000001"."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _RowError(f"{key!r} must be a non-empty string or a number, found {value!r:.80}")
    if isinstance(value, str):
        return _text(row, key)
    if not math.isfinite(value):
        raise _RowError(f"{key!r} must be a finite number, found {value}")
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def _refuse_contradiction(problem: Problem, first: Problem) -> None:
    if problem.answer != first.answer:
        raise _RowError(
            f"the problem of {first.key} again, with another answer: {problem.answer!r:.80} "
            f"instead of {first.answer!r:.80}"
        )


def _require_enough(
    path: Path, section: DataSection, good: list[Problem], bad: list[BadRow], quarantine_path: Path
) -> None:
    total = len(good) + len(bad)
    if not total:
        raise DataError(f"data file {path} has no rows; it needs one JSON object a line")
    if good and len(bad) <= section.max_quarantined_share * total:
        return
    rule = f"more than data.max_quarantined_share = {section.max_quarantined_share:g}" if good else "none is left"
    raise DataError(
        f"data file {path}: {len(bad)} of {total} rows are malformed, {rule}; "
        f"first: line {bad[0].line}: {bad[0].reason}; mend the rows listed in {quarantine_path}, "
        f"check data.prompt_key, data.answer_key and data.facts, or raise the share"
    )
