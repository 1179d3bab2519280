"""A folder appears under its name whole, or not at all, and takes the place of nothing that was not made here.

It is filled under a hidden name beside its own, `.NAME.partial-HOST-RANDOM/new`, and renamed at the end. A lock within
the hidden folder says whether somebody still fills it: a killed writer's is removed by the next one. The lock comes
first and goes last, so whoever is killed, at whatever moment, leaves what the next one can tell from a living one's.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from egrc_mega.errors import ModelError, StorageError
from egrc_mega.json_file import read_object
from egrc_mega.manifest import MANIFEST, sync

LOCK, NEW, OLD = "lock", "new", "old"
"""What a hidden folder holds. Under the last name stands what may be somebody else's in part: see `_exchange`."""
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What file systems answer that have no such rename."""
SPARE_BYTES = 2**20
"""For the small files beside the tensors."""
CLAIMS = 16
"""Hidden folders that are tried; one more is needed only where somebody looks for dead ones in the same instant."""
SMALL_BYTES = 2**20
"""Files up to this size are looked into before they are removed: somebody may have edited one."""


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
    remove_dead(folder)
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
    place, lock = _claim(folder)
    with lock:
        try:
            yield place
        finally:
            with suppress(OSError):  # the next one removes it
                _remove(place, folder)


def _claim(folder: Path) -> tuple[Path, IO[str]]:
    """A new hidden folder beside `folder`, and its lock.

    Who looks for dead ones may find it before it is locked, and remove it; then another is made.
    """
    for _ in range(CLAIMS):
        place = folder.with_name(f"{_prefix(folder)}{secrets.token_hex(8)}")
        place.mkdir()
        try:
            lock = (place / LOCK).open("x")
        except FileNotFoundError:
            continue
        except OSError:
            place.rmdir()
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        except OSError:  # a file system without locks: then nobody removes what is left
            return place, lock
        if os.fstat(lock.fileno()).st_nlink:
            return place, lock
        lock.close()
    raise StorageError(f"{folder}: other conversions take away what this one begins; try again")


def _prefix(folder: Path) -> str:
    """Of hidden names. The host is in it, for not every shared disk shares its locks."""
    return f".{folder.name}.partial-{socket.gethostname()}-"


def remove_dead(folder: Path) -> None:
    """Remove what killed writers of this host have left beside `folder`: nobody holds its lock."""
    own = re.compile(re.escape(_prefix(folder)) + "[0-9a-f]{16}")
    if not folder.parent.is_dir():
        return
    for place in folder.parent.iterdir():
        if own.fullmatch(place.name) and not place.is_symlink():
            with suppress(OSError):  # somebody fills it, or begins to
                _remove_if_dead(place, folder)


def _remove_if_dead(place: Path, folder: Path) -> None:
    try:
        lock = (place / LOCK).open()
    except FileNotFoundError:
        place.rmdir()  # nothing is in it yet, or it stays
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(place, folder)


def _remove(place: Path, folder: Path) -> None:
    """Take a hidden folder away, its lock last; what others had put into a replaced folder stays beside `folder`."""
    if (place / OLD).is_dir():
        _remove_own_files(place / OLD, folder)
    shutil.rmtree(place / NEW, ignore_errors=True)
    (place / LOCK).unlink(missing_ok=True)
    place.rmdir()


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
    """Give `source` the name of `target`, at once where the file system can do that; what had it becomes `OLD`."""
    old = source.with_name(OLD)
    source.rename(old)
    if not _renameat2(old, target, RENAME_EXCHANGE):
        old.rename(source)
        target.rename(old)
        source.rename(target)


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
    try:
        manifest = read_object(old / MANIFEST)
    except (OSError, ValueError):  # whose its files are nobody can tell
        manifest = {}
    for name, entry in manifest.items():
        if _is_as_written(old, name, entry):
            (old / name).unlink()
    if manifest:
        (old / MANIFEST).unlink()
    for path in sorted((path for path in old.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    try:
        old.rmdir()
    except OSError:
        old.rename(folder.with_name(f"{folder.name}.replaced-{secrets.token_hex(4)}"))


def _is_as_written(folder: Path, name: str, entry: Any) -> bool:
    """Whether a file of a manifest is within the folder and has the content that the manifest names."""
    path = folder / name
    if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return False
    size = path.stat().st_size
    if not isinstance(entry, dict) or size != entry.get("size_bytes"):
        return False
    return size > SMALL_BYTES or hashlib.sha256(path.read_bytes()).hexdigest() == entry.get("sha256")
