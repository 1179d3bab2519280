"""A lock file that one living process holds, and that says which.

The lock is a POSIX record lock: the kernel gives it to a process and not to an open file, so children that the holder
has forked do not inherit it, and the death of the holder frees it whatever else still runs. Its one trap is that the
lock is lost when the process closes any descriptor of the file, so a file whose lock we hold is never opened again.
"""

import contextlib
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

import psutil

_held_here: set[Path] = set()
"""Lock files of this very process."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has written into a lock file."""

    pid: int
    started: float
    """When the process began, in seconds since the epoch: numbers of processes are used again."""
    host: str

    @classmethod
    def this_process(cls) -> Self:
        """The holder that this process would be."""
        return cls(os.getpid(), psutil.Process().create_time(), socket.gethostname())

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None where the text is torn or somebody else's."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def is_known_dead(self) -> bool:
        """True when this machine would have the process and has it no more."""
        if self.host != socket.gethostname():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.Error:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """A lock that this process holds until it releases it or ends."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self._file = path, file

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The lock, or None when somebody holds it, another part of this process included."""
        path = path.parent.resolve() / path.name
        if path in _held_here:
            return None
        # of a link the system says "Too many levels of symbolic links": what it leads to would be cut short
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        file.truncate(0)
        file.write(json.dumps(asdict(Holder.this_process())))
        file.flush()
        _held_here.add(path)
        return cls(path, file)

    def release(self) -> None:
        """Give the lock back and close its file."""
        self._file.close()
        _held_here.discard(self.path)


def local_holder(path: Path) -> int | None:
    """Number of the process on this machine that holds a lock file; None where it is elsewhere, or nobody does."""
    if path.resolve() in _held_here:
        return os.getpid()
    if holder_of(path) is None:
        return None
    holder = Holder.read(path.read_text())
    is_here = holder is not None and holder.host == socket.gethostname() and not holder.is_known_dead()
    return holder.pid if holder is not None and is_here else None


def holder_of(path: Path) -> str | None:
    """The living holder of a lock file in words, or None when nobody holds it."""
    path = path.resolve()
    if path in _held_here:
        return f"{Holder.this_process()}, which is this one"
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = Holder.read(file.read())
            # the next holder has the lock before its name is there
            return "another process" if holder is None or holder.is_known_dead() else str(holder)
    return None
