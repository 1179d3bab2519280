"""Reads problems from JSONL or parquet; a malformed row is quarantined with file, line and reason, never skipped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.config.schema import DataSection
from egrc_mega.errors import DataError


@dataclass(frozen=True, slots=True)
class Problem:
    """A good row."""

    line: int
    """1-based line (JSONL) or row (parquet)."""
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used."""

    file: str
    line: int
    reason: str


class _RowError(ValueError):
    """Why one row is bad."""


def read_problems(path: Path, section: DataSection, quarantine: Path) -> list[Problem]:
    """Every good row of a file, in order. Bad ones are appended to the quarantine file (JSONL).

    Raises:
        DataError: no such file, no good row, or a larger share of bad rows than the section allows.
    """
    if not path.is_file():
        raise DataError(f"data file {path} does not exist")
    good: list[Problem] = []
    bad: list[BadRow] = []
    for line, raw in _rows(path):
        try:
            good.append(_problem(line, raw, section))
        except _RowError as error:
            bad.append(BadRow(str(path), line, str(error)))
    _set_aside(bad, quarantine)
    _require_enough(path, section, good, bad, quarantine)
    return good


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, bytes) of a JSONL file, blank lines left out, or (row, dict) of a parquet file."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
        return
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            stripped = raw.removeprefix(b"\xef\xbb\xbf").strip()
            if stripped:
                yield line, stripped


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path} is a parquet file: install pyarrow, or convert it to JSONL") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file: {error}") from error
    return rows


def _problem(line: int, raw: Any, section: DataSection) -> Problem:
    if isinstance(raw, bytes):
        try:
            raw = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise _RowError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise _RowError(f"a JSON object is expected, this is a {type(raw).__name__}")
    return Problem(line, _text(raw, section.prompt_key), _answer(raw, section.answer_key))


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _RowError(f"{key!r} must be a non-empty string, found {value!r:.80}")
    return value.strip()


def _answer(row: dict[str, Any], key: str) -> str:
    """Numbers are taken as their text; integral floats lose their `.0`, as AMC's answers need."""
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise _RowError(f"{key!r} must be a non-empty string or a number, found {value!r:.80}")
    return str(value).strip()


def _set_aside(bad: list[BadRow], quarantine: Path) -> None:
    if bad:
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        with quarantine.open("ab") as file:
            for row in bad:
                file.write(orjson.dumps(row) + b"\n")


def _require_enough(path: Path, section: DataSection, good: list[Problem], bad: list[BadRow], quarantine: Path) -> None:
    if not good and not bad:
        raise DataError(f"data file {path} has no rows")
    share = len(bad) / (len(good) + len(bad))
    if share > section.max_quarantined_share or not good:
        first = bad[0]
        raise DataError(
            f"{path}: {len(bad)} of {len(good) + len(bad)} rows are malformed, more than data.max_quarantined_share = "
            f"{section.max_quarantined_share:g}; first: line {first.line}: {first.reason}; all are in {quarantine}"
        )
