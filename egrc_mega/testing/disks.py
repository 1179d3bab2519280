"""Small disks of memory for tests: they fill up, and can be made read-only, which not even root may write to."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE_BYTES = 4096
"""A tmpfs gives room in pages."""


@contextmanager
def tiny_disk(folder: Path, size_bytes: int = 2**20) -> Iterator[Path]:
    """A tmpfs of this size at `folder`, which is made.

    Raises:
        PermissionError: this process may mount nothing.
    """
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "egrc-test", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("a tmpfs can be mounted by root alone") from error
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def set_read_only(disk: Path, is_read_only: bool = True) -> None:
    """Let nothing be written there, or let it again."""
    _mount("-o", f"remount,{'ro' if is_read_only else 'rw'}", str(disk))


def leave_free(disk: Path, num_bytes: int = 0) -> Path:
    """Fill a disk but for so many bytes; the file that takes the rest."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - num_bytes)))
    return filler


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
