"""What this process is at, and whether it moves: noted by the training loop, read by the watch of `observe.hangs`.

The note also stands in a page of memory that has no name in any folder: other processes of the machine read it under
/proc when this one cannot answer for itself. There they also say that this one shall go no further: a process that is
stopped, and must run on to say where it is, sees that before it does anything else.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

NAME = "egrc-pulse"
PAGE_BYTES = 1024
"""Of the note. Behind it stands a byte that holds the process, and from there on stacks have room."""
STACKS_AT = PAGE_BYTES + 1
HELD = b"!"


@dataclass(frozen=True, slots=True)
class Note:
    """What the main thread is at."""

    phase: str = ""
    """The verb of the loop, with its step."""
    awaits: str = ""
    """What it waits for, where that has a name; empty: the next collective, the device, or its own work."""
    limit_s: float | None = None
    """Longest that this may take without any movement; None: as long as a collective may."""
    field: str = ""
    """The setting that has the limit."""
    since: float = 0.0
    """Seconds of the monotonic clock, which processes of one machine share."""


class Pulse:
    """Of one process. Whatever is noted counts as movement."""

    def __init__(self) -> None:
        self.count = 0
        """Movements so far."""
        self.note = Note()
        self.page: int | None = None
        """Descriptor of the memory that others may read."""
        self.leave: Callable[[], None] = lambda: None
        """What whoever notes something does, instead of going on, once this process is held."""

    def publish(self) -> int:
        """From now on others may read the note; the descriptor, which stays open as long as the process."""
        if self.page is None:
            self.page = os.memfd_create(NAME)
            os.lseek(self.page, STACKS_AT, os.SEEK_SET)
            self._write()
        return self.page

    def beat(self) -> None:
        """Something has moved: a micro-batch, a tensor."""
        self.count += 1
        if self.is_held():
            self.leave()

    def hold(self) -> None:
        """From now on this process goes no further than to its next note."""
        if self.page is not None:
            os.pwrite(self.page, HELD, PAGE_BYTES)

    def is_held(self) -> bool:
        """Somebody has said that it shall go no further."""
        return self.page is not None and os.pread(self.page, 1, PAGE_BYTES) == HELD

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within it the process is at this."""
        with self._noted(replace(self.note, phase=name)):
            yield

    @contextmanager
    def awaiting(self, what: str, limit_s: float | None, field: str) -> Iterator[None]:
        """Within it the process waits for something that has its own limit."""
        with self._noted(replace(self.note, awaits=what, limit_s=limit_s, field=field)):
            yield

    @contextmanager
    def _noted(self, note: Note) -> Iterator[None]:
        before = self.note
        self._take(note)
        try:
            yield
        finally:
            self._take(before)

    def _take(self, note: Note) -> None:
        self.note = replace(note, since=time.monotonic())
        self.count += 1
        if self.page is not None:
            self._write()
        if self.is_held():
            self.leave()

    def _write(self) -> None:
        assert self.page is not None
        text = json.dumps(asdict(self.note)).encode()[:PAGE_BYTES]
        with suppress(OSError):  # a machine without memory has other troubles
            os.pwrite(self.page, text.ljust(PAGE_BYTES), 0)


def hold(pid: int, page: int) -> None:
    """Have another process of this machine go no further; where there is no such page, nothing happens."""
    path = f"/proc/{pid}/fd/{page}"
    with suppress(OSError):
        if NAME in os.readlink(path):
            with open(path, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), HELD, PAGE_BYTES)


def read_page(pid: int, page: int) -> tuple[Note, str] | None:
    """The note of another process of this machine and the stacks behind it; None where there is no such page."""
    path = f"/proc/{pid}/fd/{page}"
    try:
        if NAME not in os.readlink(path):
            return None
        with open(path, "rb") as file:
            note, _held, stacks = file.read(PAGE_BYTES), file.read(1), file.read()
        return Note(**json.loads(note)), stacks.decode(errors="replace")
    except (OSError, ValueError, TypeError):
        return None


PULSE = Pulse()
"""Of this process."""
