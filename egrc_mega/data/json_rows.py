"""Finds the rows of a JSON text: one a line, the elements of an array, or objects that go over several lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from egrc_mega.data.source import Row
from egrc_mega.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK = " \t\r\n\ufeff"
JOINT = re.compile(rb"(?<=\})\xef\xbb\xbf(?=\s*\{)")
"""Where a file was joined to one that ended without a line end."""
DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
"""Finds where a value ends; what it holds is judged later, row by row."""


def json_rows(content: bytes, path: Path) -> Iterator[Row]:
    """The rows of a file's content, each as a JSON text.

    A byte order mark is left out wherever a file begins that was joined to another. A row of JSON Lines may be broken
    and is yielded as it is; within an array nobody can tell where the row after a broken one begins.

    Raises:
        DataError: an array, or objects over several lines, with a mistake; it names the line.
    """
    lines = _lines(content)
    if not lines:
        return
    first = lines[0].content
    assert isinstance(first, bytes)
    is_whole = _is_value(first)
    is_array = first.startswith(b"[") and (not is_whole or len(lines) == 1)
    if is_array or (first.startswith(b"{") and not is_whole and _goes_on(content)):
        yield from _values(_decoded(content, path), path, is_array)
    else:
        yield from lines


def _lines(content: bytes) -> list[Row]:
    """Those that are not blank. Old Macs end them with a carriage return alone."""
    end = b"\n" if b"\n" in content else b"\r"
    return [
        Row(number, stripped)
        for number, line in enumerate(content.split(end), start=1)
        for part in JOINT.split(line)
        if (stripped := part.strip().removeprefix(BYTE_ORDER_MARK).strip())
    ]


def _is_value(text: bytes) -> bool:
    try:
        DECODER.decode(text.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _goes_on(content: bytes) -> bool:
    """Whether the text begins with an object that is whole on a later line than its first."""
    try:
        text = content.decode().lstrip(BLANK)
        DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"data file {path}: line {line}: not UTF-8: byte 0x{content[error.start]:02x}; write the file as UTF-8"
        ) from error


def _values(text: str, path: Path, is_array: bool) -> Iterator[Row]:
    """The elements of an array, or one value after the other."""
    at = _next(text, 0) + is_array
    number, line, counted = 0, 1, 0
    has_lines = "\n" in text.strip()
    while (at := _next(text, at)) < len(text):
        if is_array and text[at] == "]":
            at = _next(text, at + 1)
            break
        line, counted = line + text.count("\n", counted, at), at
        try:
            _value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _broken(path, text, getattr(error, "pos", at), getattr(error, "msg", "nested too deeply")) from error
        number += 1
        yield Row(number, text[at:end].encode(), line if has_lines else None)
        at = _next(text, end)
        if is_array and text[at : at + 1] != "]":
            if text[at : at + 1] != ",":
                raise _broken(path, text, at, "a comma or the array's ] is missing")
            at += 1
    else:
        if is_array:
            raise _broken(path, text, len(text), "the array's ] is missing")
    if at < len(text):
        raise _broken(path, text, at, "something stands after the array's ]")


def _next(text: str, at: int) -> int:
    """Where the next character stands that is not blank."""
    while at < len(text) and text[at] in BLANK:
        at += 1
    return at


def _broken(path: Path, text: str, at: int, reason: str) -> DataError:
    line = text.count("\n", 0, at) + 1
    return DataError(
        f"data file {path}: line {line}: not JSON: {reason}, at {text[at : at + 40]!r}; mend it, or give one object a "
        f"line (jq -c '.[]' {path.name}), of which a broken one is set aside"
    )
