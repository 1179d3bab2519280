"""A folder appears under its name whole, or not at all, and takes the place of nothing that was not made here.

It is filled under a hidden name beside its own, `.NAME.partial-HOST-RANDOM/new`, and renamed at the end. A lock within
the hidden folder says whether somebody still fills it: a killed writer's is removed by the next one.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from egrc_mega.errors import ModelError, StorageError
from egrc_mega.manifest import MANIFEST, sync

LOCK, NEW = "lock", "new"
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What file systems answer that have no such rename."""
SPARE_BYTES = 2**20
"""For the small files beside the tensors."""


@contextmanager
def new_folder(folder: Path, *, durable: bool, replaces: bool = False, num_bytes: int = 0) -> Iterator[Path]:
    """A hidden folder to fill, renamed to `folder` at the end; removed on an error.

    Args:
        durable: wait until the disk has the name, too.
        replaces: an earlier folder of that name gives way, if this program has written it.
        num_bytes: that will be written; without room for them nothing is begun.

    Raises:
        ModelError: something is there, or comes into being meanwhile. It stays as it is.
        StorageError: there is no room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead(folder)
    _require_free(folder, replaces=replaces)
    free = shutil.disk_usage(folder.parent).free
    if num_bytes and free < num_bytes + SPARE_BYTES:
        raise StorageError(
            f"{folder}: {num_bytes:,} bytes are to be written, the disk has room for {free:,}; make room"
        )
    with _hidden_place(folder) as place:
        partial = place / NEW
        partial.mkdir()
        try:
            yield partial
        except OSError as error:
            error.filename = error.filename or str(folder)  # a write knows its file only by number
            raise
        _require_free(folder, replaces=replaces)
        if replaces and folder.exists():
            _exchange(partial, folder)
            _remove_own_files(partial, folder)
        else:
            _rename_to_nothing(partial, folder)
    if durable:
        sync(folder.parent)


def _require_free(folder: Path, *, replaces: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not replaces:
        raise ModelError(f"{folder} exists already; choose another folder")
    is_own = (
        folder.is_dir() and not folder.is_symlink() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    )
    if not is_own:
        raise ModelError(f"{folder} exists already and has no {MANIFEST}, so it is somebody else's; take it away")


@contextmanager
def _hidden_place(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that is locked while it is in use, and removed afterwards."""
    place = folder.with_name(f"{_prefix(folder)}{secrets.token_hex(8)}")
    place.mkdir()
    try:
        with (place / LOCK).open("w") as lock:
            with suppress(OSError):  # a file system without locks: then nobody removes what is left
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _prefix(folder: Path) -> str:
    """Of hidden names. The host is in it, for not every shared disk shares its locks."""
    return f".{folder.name}.partial-{socket.gethostname()}-"


def _remove_dead(folder: Path) -> None:
    """Remove what killed writers of this host have left beside `folder`: nobody holds its lock."""
    own = re.compile(re.escape(_prefix(folder)) + "[0-9a-f]{16}")
    for place in folder.parent.iterdir():
        if not own.fullmatch(place.name) or place.is_symlink():
            continue
        try:
            with (place / LOCK).open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
        except OSError:  # somebody fills it, or begins to
            continue


def _rename_to_nothing(source: Path, target: Path) -> None:
    try:
        if not _renameat2(source, target, RENAME_NOREPLACE):
            _require_free(target, replaces=False)
            source.rename(target)  # of a folder that holds anything this makes no victim either
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise ModelError(f"{target} has come into being meanwhile and stays as it is; choose another folder") from error


def _exchange(source: Path, target: Path) -> None:
    """Each gets the other's name, at once where the file system can do that."""
    if not _renameat2(source, target, RENAME_EXCHANGE):
        aside = source.with_name("aside")
        target.rename(aside)
        source.rename(target)
        aside.rename(source)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Linux's rename with flags; False where the system or the file system has none."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def _remove_own_files(old: Path, folder: Path) -> None:
    """Remove what the manifest of a replaced folder names; what else was in it stays, beside `folder`."""
    names = json.loads((old / MANIFEST).read_text()) if (old / MANIFEST).is_file() else {}
    for name in [*names, MANIFEST]:
        if not Path(name).is_absolute() and ".." not in Path(name).parts:
            (old / name).unlink(missing_ok=True)
    for path in sorted((path for path in old.rglob("*") if path.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    try:
        old.rmdir()
    except OSError:
        old.rename(folder.with_name(f"{folder.name}.replaced-{secrets.token_hex(4)}"))
