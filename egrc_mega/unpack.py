"""Unpacks what others have packed: a small file may stand for more bytes than any memory holds."""

import gzip
import io

GZIP = b"\x1f\x8b"
"""How a file under gzip begins."""
MAX_RATIO = 200
"""Text of problems and responses unpacks to 3 to 20 times its size; a bomb of gzip's to a thousand times."""
SMALL_BYTES = 2**26
"""So much may come out of any file: short ones of one repeated character."""


def unpacked(content: bytes) -> bytes:
    """The bytes that are packed by gzip in `content`, all of its members.

    Raises:
        ValueError: they are too many for what there is of them.
        EOFError, zlib.error, gzip.BadGzipFile: it is not whole.
    """
    most = max(SMALL_BYTES, MAX_RATIO * len(content))
    found = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    if len(found) > most:
        raise ValueError(f"its {len(content)} bytes unpack to more than {most}")
    return found
