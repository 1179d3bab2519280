"""Cuts a file of JSON objects into its rows without ever holding more than one of them: arrays, JSON Lines, gzip.

Where an object ends is found by counting brackets outside of strings; what it holds is judged by whoever parses it.
"""

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from egrc_mega.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK_BYTES = 2**20
MAX_ROW_BYTES = 2**26
"""One row with 64 responses of 32,768 tokens has a quarter of it."""
BLANK = re.compile(rb"(?:[ \t\r\n]|\xef\xbb\xbf)*+")
BRACKET_OR_STRING = re.compile(rb'["{}\[\]]')
WITHIN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


class JsonRow(NamedTuple):
    """One object as it stands in the file."""

    number: int
    """From 1."""
    line: int
    """Where it begins, from 1."""
    content: bytes
    """The JSON text of one value."""


def stream_rows(path: Path) -> Iterator[JsonRow]:
    """The objects of a file: of one JSON array, or one after the other (JSON Lines, or over several lines).

    Raises:
        DataError: no regular file, cannot be read or unpacked, something else than objects, one that never ends or is
            larger than MAX_ROW_BYTES; it names the row and the line.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for somebody who writes
            raise DataError(f"{path} is no file; give a file of responses")
        with path.open("rb") as raw:
            is_packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            yield from _Rows(path, gzip.GzipFile(fileobj=raw) if is_packed else raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}; write it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from error


class _Rows:
    """The part of a file that is being looked at."""

    def __init__(self, path: Path, file: BufferedIOBase) -> None:
        self.path, self.file = path, file
        self.held = b""
        self.at = 0
        """Where in `held` the next byte stands that nobody has looked at."""
        self.number, self.line = 0, 1

    def __iter__(self) -> Iterator[JsonRow]:
        is_array = self._peek() == b"["
        self.at += is_array
        while (byte := self._peek()) and not (is_array and byte == b"]"):
            self.number += 1
            if byte != b"{":
                raise self._broken("an object { is expected")
            content = self._object()
            yield JsonRow(self.number, self.line, content)
            self.line += content.count(b"\n")
            byte = self._peek()
            if is_array and byte == b",":
                self.at += 1
            elif is_array and byte and byte != b"]":
                raise self._broken("a comma or the array's ] is missing after it")
        if is_array:
            self._end_of_array()

    def _end_of_array(self) -> None:
        if not self._peek():
            raise self._broken("the file ends within the array: its ] is missing")
        self.at += 1
        if self._peek():
            raise self._broken("something stands after the array's ]")

    def _peek(self) -> bytes:
        """The next byte that is not blank; empty at the end of the file."""
        while True:
            blank = BLANK.match(self.held, self.at)
            assert blank is not None
            self.line += self.held.count(b"\n", self.at, blank.end())
            self.at = blank.end()
            # a byte order mark may be cut by the end of what is held
            if self.at + 2 < len(self.held) or not self._read():
                return self.held[self.at : self.at + 1]

    def _object(self) -> bytes:
        """The bytes from here to the bracket that closes the one that stands here."""
        end, depth, in_string = self.at, 0, False
        while True:
            end, depth, in_string = self._scan(end, depth, in_string)
            if depth == 0:
                content = self.held[self.at : end]
                self.at = end
                return content
            if len(self.held) - self.at > MAX_ROW_BYTES:
                raise self._broken(f"it has more than {MAX_ROW_BYTES >> 20} MiB, or never ends")
            end -= self.at
            if not self._read():
                raise self._broken("the file ends within it")

    def _scan(self, at: int, depth: int, in_string: bool) -> tuple[int, int, bool]:
        """Go on counting brackets to the one that closes the object, or to the end of what is held."""
        while True:
            if in_string:
                within = WITHIN_STRING.match(self.held, at)
                assert within is not None
                at = within.end()
                if self.held[at : at + 1] != b'"':
                    return at, depth, True
                at, in_string = at + 1, False
            found = BRACKET_OR_STRING.search(self.held, at)
            if found is None:
                return len(self.held), depth, False
            at = found.end()
            if found[0] == b'"':
                in_string = True
            else:
                depth += 1 if found[0] in b"{[" else -1
                if depth == 0:
                    return at, 0, False

    def _read(self) -> bool:
        """Read on, and let go of what has been looked at; False at the end of the file.

        As much is read as is kept, so that a long row is copied a few times only.
        """
        more = self.file.read(max(CHUNK_BYTES, len(self.held) - self.at))
        if not more:
            return False
        self.held = self.held[self.at :] + more
        self.at = 0
        return True

    def _broken(self, reason: str) -> DataError:
        shown = self.held[self.at : self.at + 40].decode("utf-8", "replace")
        return DataError(
            f"{self.path}, row {self.number} (line {self.line}): not JSON: {reason}, at {shown!r}; mend the file, or "
            f"give JSON objects, one a line or in one array"
        )
