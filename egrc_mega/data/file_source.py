"""The built-in source: a JSON or parquet file, told by its content."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from egrc_mega.data.json_rows import json_rows
from egrc_mega.data.source import Row, Source, SourceSection
from egrc_mega.errors import DataError
from egrc_mega.unpack import content_of, most_bytes

PARQUET = b"PAR1"
BATCH_ROWS = 64
"""Of a parquet file, which are unpacked at one time."""
PACKED = {b"BZh": "bunzip2", b"\xfd7zXZ\x00": "unxz", b"\x28\xb5\x2f\xfd": "unzstd", b"PK\x03\x04": "unzip"}
"""First bytes of files that something else must unpack first."""
HEADER = re.compile(rb'\s*(?:\xef\xbb\xbf)?\s*"?[A-Za-z_][\w .]*"?(?:[,;\t]\s*"?[A-Za-z_][\w .]*"?)+\s*(?:[\r\n]|$)')
"""The first line of a table in text: names, and commas between them."""


class FileSourceSection(SourceSection):
    """A file: JSON Lines, a JSON array, JSON objects over several lines, any of them under gzip, or parquet."""

    source: Literal["file"] = "file"
    """Which source."""


class FileSource(Source):
    """The rows of one file."""

    Config = FileSourceSection

    def rows(self, path: Path) -> Iterator[Row]:
        """Numbered by line (JSON Lines), or counted from 1 (arrays, parquet)."""
        if not path.is_file():
            raise DataError(
                f"data file {path} is not a file; set data.train and evaluation.data to JSONL, JSON or parquet files"
            )
        content = _content(path)
        if path.suffix == ".parquet" or content.startswith(PARQUET):
            yield from (Row(number, row) for number, row in enumerate(_parquet_rows(path), start=1))
            return
        if path.suffix in (".csv", ".tsv") or HEADER.match(content):
            raise DataError(
                f"data file {path} is a table in text (CSV), which does not say what is a number; make it JSONL: "
                f"python -c 'import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]' "
                f"< {path.name} > {path.stem}.jsonl"
            )
        yield from json_rows(content, path)


def _content(path: Path) -> bytes:
    """The whole file, unpacked where it is under gzip."""
    try:
        content = content_of(path)
    except ValueError as error:
        raise DataError(f"data file {path}: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"data file {path} is not a whole gzip file: {error}; write it again") from error
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}; check its permissions") from error
    for magic, command in PACKED.items():
        if content.startswith(magic):
            raise DataError(f"data file {path} is packed; unpack it first, for instance with {command}")
    return content


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """A few rows at a time, for what a file says of its own size leaves out values that are written once for many."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"data file {path} is parquet: install pyarrow, or convert it to JSONL; pip install "
            f"'egrc-mega[parquet]' brings it"
        ) from error
    size, num_bytes = path.stat().st_size, 0
    most = most_bytes(size)
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            num_bytes += batch.nbytes
            if num_bytes > most:
                raise DataError(
                    f"data file {path}: its {size} bytes unpack to more than {most}; convert it to JSONL if it is what "
                    f"you expect"
                )
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"data file {path} is not a whole parquet file: {reason}; write it again") from error
