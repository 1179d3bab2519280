"""Reads the small JSON and text files of folders that others have made: bounded, and never waiting.

A folder that was downloaded may hold a pipe in place of a file, a file of any size, JSON nested until the interpreter
gives up, or a key that is stated twice. Whatever it is, there are two kinds of errors: `OSError` and `ValueError`.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**28
"""An index of a hundred thousand tensors has a tenth of it."""
MAX_TEXT_BYTES = 2**12


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        OSError: no such file, a link to nothing, no permission.
        ValueError: no regular file, too large, not UTF-8, not JSON, nested too deeply, no object, or a key stated twice
            with two values.
    """
    text = _read_bytes(path, MAX_JSON_BYTES).decode()
    try:
        content = json.loads(text, object_pairs_hook=_without_contradiction)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"must hold a JSON object, found a {type(content).__name__}")
    return content


def read_text(path: Path) -> str:
    """The text of a file; raises as `read_object`."""
    return _read_bytes(path, MAX_JSON_BYTES).decode()


def read_line(path: Path) -> str:
    """The text of a file of one line, without the spaces around it; raises as `read_object`."""
    return _read_bytes(path, MAX_TEXT_BYTES).decode().strip()


def _read_bytes(path: Path, most: int) -> bytes:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody who writes
        raise ValueError("it is no regular file")
    if found.st_size > most:
        raise ValueError(f"it has {found.st_size} bytes, more than the {most} that are read")
    return path.read_bytes()


def _without_contradiction(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content and content[key] != value:
            raise ValueError(f"it states {key!r} twice, as {content[key]!r:.50} and {value!r:.50}")
        content[key] = value
    return content
