"""The quarantine file: malformed rows of the data, one JSON object a line, for someone to look at."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used."""

    file: str
    line: int
    """1-based line, or row where a file has no lines (parquet, an array on one line)."""
    reason: str


def set_aside(rows: Sequence[BadRow], quarantine_path: Path) -> None:
    """Add rows to the file, whole or not at all. Those it lists already, as after a resume, are not listed twice."""
    known = quarantine_path.read_bytes().splitlines() if quarantine_path.exists() else []
    listed = set(known)
    new = [line for line in map(_as_json, rows) if line not in listed]
    if not new:
        return
    quarantine_path.parent.mkdir(parents=True, exist_ok=True)
    whole = quarantine_path.with_name(f".{quarantine_path.name}.new")
    whole.write_bytes(b"".join(line + b"\n" for line in [*known, *new]))
    os.replace(whole, quarantine_path)


def _as_json(row: BadRow) -> bytes:
    # a reason may quote half a character, a path may hold bytes that are not UTF-8: neither can be written as it is
    printable = {
        key: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for key, value in asdict(row).items()
    }
    return orjson.dumps(printable)
