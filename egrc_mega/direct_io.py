"""Writing past the page cache: the disk takes whole blocks straight from this process's memory.

Bytes that nobody reads soon need no copy in the kernel, which costs a core as much time as hashing them, and push
nothing else out of its cache. Linux asks for memory, place and length that are multiples of the disk's blocks; a file
system that cannot do it, or not here, gets the same bytes in the ordinary way. See `O_DIRECT` in open(2).
"""

import errno
import fcntl
import mmap
import os
from io import FileIO

BLOCK_BYTES = 4096
"""A multiple of the blocks of nearly all disks; what needs more refuses, and is written in the ordinary way."""
O_DIRECT = getattr(os, "O_DIRECT", 0)
"""0 where the operating system has no such thing."""


def aligned_buffer(num_bytes: int) -> memoryview:
    """Memory that begins where direct writing wants it to."""
    return memoryview(mmap.mmap(-1, num_bytes))


def append(file: FileIO, view: memoryview, *, direct: bool) -> None:
    """Write all of a view at the end of a file; past the cache the end must lie at a multiple of `BLOCK_BYTES`.

    Raises:
        OSError: what the operating system said.
    """
    direct = direct and len(view) % BLOCK_BYTES == 0 and _set_direct(file, True)
    try:
        while view:
            try:
                view = view[file.write(view) or 0 :]
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                direct = _set_direct(file, False)  # a larger block, or a rest that a nearly full disk has left
    finally:
        if direct:
            _set_direct(file, False)


def _set_direct(file: FileIO, wanted: bool) -> bool:
    """Switch a file; returns whether it is written past the cache now."""
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | O_DIRECT if wanted else flags & ~O_DIRECT)
    except OSError:
        return False
    return wanted and O_DIRECT != 0
