"""The built-in source: a JSONL or parquet file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from egrc_mega.data.source import Source, SourceSection
from egrc_mega.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FileSourceSection(SourceSection):
    """One problem a line (JSONL) or a row (parquet), as the file's name says."""

    source: Literal["file"] = "file"
    """Which source."""


class FileSource(Source):
    """The rows of one JSONL or parquet file."""

    Config = FileSourceSection

    def rows(self, path: Path) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
        """(line, bytes) of a JSONL file, blank lines left out, or (row, dict) of a parquet file."""
        if not path.is_file():
            raise DataError(
                f"data file {path} is not a file; set data.train and evaluation.data to JSONL or parquet files"
            )
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
