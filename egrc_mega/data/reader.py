"""Reads problems from JSONL or parquet; a malformed row is quarantined with file, line and reason, never skipped."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from egrc_mega.config.schema import DataSection
from egrc_mega.data.quarantine import BadRow, set_aside
from egrc_mega.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Problem:
    """A good row."""

    line: int
    """1-based line (JSONL) or row (parquet)."""
    text: str
    answer: str


class _RowError(ValueError):
    """Why one row is bad."""


def read_problems(path: Path, section: DataSection, quarantine_path: Path) -> list[Problem]:
    """Every good row of a file, in order; the bad ones go to the quarantine file.

    A row is bad when it is not a JSON object in UTF-8, misses one of the section's two keys, holds the wrong type or an
    empty value there, or repeats an earlier problem with another answer. A problem repeated with the same answer is
    good: data sets do that to weigh it. Blank lines are no rows.

    Raises:
        DataError: no such file, no good row, or a larger share of bad rows than the section allows.
    """
    if not path.is_file():
        raise DataError(f"data file {path} is not a file; set data.train and evaluation.data to JSONL or parquet files")
    good: list[Problem] = []
    bad: list[BadRow] = []
    first_with: dict[str, Problem] = {}
    for line, raw in _rows(path):
        try:
            problem = _problem(line, raw, section)
            _refuse_contradiction(problem, first_with.setdefault(problem.text, problem))
            good.append(problem)
        except _RowError as error:
            bad.append(BadRow(str(path), line, str(error)))
    set_aside(bad, quarantine_path)
    _require_enough(path, section, good, bad, quarantine_path)
    return good


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, bytes) of a JSONL file, blank lines left out, or (row, dict) of a parquet file."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
        return
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                stripped = (raw.removeprefix(BYTE_ORDER_MARK) if line == 1 else raw).strip()
                if stripped:
                    yield line, stripped
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}; check its permissions") from error


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"data file {path} is parquet: install pyarrow, or convert it to JSONL") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data file {path} is not a whole parquet file: {reason}; write it again") from error
    return rows


def _problem(line: int, raw: bytes | dict[str, Any], section: DataSection) -> Problem:
    row = _parsed(raw) if isinstance(raw, bytes) else raw
    if not isinstance(row, dict):
        raise _RowError(f"a JSON object is expected, this is a {type(row).__name__}")
    for key in (section.prompt_key, section.answer_key):
        if key not in row:
            raise _RowError(f"key {key!r} is missing; the row has {sorted(row)!r:.200}")
    return Problem(line, _text(row, section.prompt_key), _answer(row, section.answer_key))


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
            f"the problem of line {first.line} again, with another answer: {problem.answer!r:.80} "
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
        f"check data.prompt_key and data.answer_key, or raise the share"
    )
