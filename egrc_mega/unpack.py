"""Reads and unpacks files of others whole: a small one may stand for more bytes than any memory holds, or never end."""

import gzip
import io
import os
import stat
from pathlib import Path

import psutil

GZIP = b"\x1f\x8b"
"""How a file under gzip begins."""
MAX_RATIO = 200
"""Text of problems and responses unpacks to 3 to 20 times its size; bombs of gzip and parquet to thousands of times."""
SMALL_BYTES = 2**26
"""So much may come out of any file: short ones of one repeated character."""


def most_bytes(packed: int) -> int:
    """How many bytes may come out of a file that has so many."""
    return max(SMALL_BYTES, MAX_RATIO * packed)


def content_of(path: Path) -> bytes:
    """The bytes of a file, unpacked where they are under gzip.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, does not fit into memory, or too many bytes come out of it; with the remedy.
        EOFError, zlib.error, gzip.BadGzipFile: what is packed is not whole.
    """
    found, room = os.stat(path), psutil.virtual_memory().available // 2
    if not stat.S_ISREG(found.st_mode):  # a pipe would wait for somebody who writes, a device may never end
        raise ValueError("it is no regular file; write what it holds into one")
    if found.st_size > room:
        raise ValueError(f"it has {found.st_size} bytes, more than half of this machine's free memory; cut it in parts")
    content = path.read_bytes()
    return unpacked(content) if content.startswith(GZIP) else content


def unpacked(content: bytes) -> bytes:
    """The bytes that are packed by gzip in `content`, all of its members.

    Raises:
        ValueError: they are too many for what there is of them.
        EOFError, zlib.error, gzip.BadGzipFile: it is not whole.
    """
    most = most_bytes(len(content))
    found = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    if len(found) > most:
        raise ValueError(
            f"its {len(content)} bytes unpack to more than {most}; unpack it yourself if it is what you expect"
        )
    return found
