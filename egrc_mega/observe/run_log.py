"""`run.log`: every line that a run has said, with the time. A disk that takes none of them costs lines, not the run.

Rank 0 writes it. Of the other ranks it has the errors of their own that have ended them.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from egrc_mega.errors import RelayedError
from egrc_mega.plain_text import plain


class RunLog:
    """Appends lines, each at once."""

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        """`complain` hears of the first of several lines in a row that could not be written."""
        self.path = path
        self._complain = complain
        self._file = path.open("ab", buffering=0)  # a line that was held back would fail again at the end
        self._is_lost, self._is_torn = False, False

    def write(self, text: str) -> None:
        """Append the lines of a text, or lose them; the next ones are tried again."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        lines = "".join(f"{now} {line}\n" for line in text.splitlines()).encode(errors="replace")
        try:
            self._append(b"\n" * self._is_torn + lines)
            self._is_lost = False
        except OSError as error:
            if not self._is_lost:
                self._complain(f"{self.path}: {error.strerror or error}; lines are lost from it, and the run goes on")
            self._is_lost = True

    def _append(self, data: bytes) -> None:
        while data:
            written = self._file.write(data)
            data = data[written:]
            self._is_torn = bool(data)  # a disk that fills up takes a part

    def close(self) -> None:
        """Nothing is held back, so nothing fails."""
        self._file.close()


@contextmanager
def noted_end(path: Path) -> Iterator[None]:
    """Append the error that ends this rank to `run.log`, unless it is rank 0, which does so itself, or knows only what
    rank 0 has told it."""
    try:
        yield
    except RelayedError:
        raise
    except Exception as error:
        rank = os.environ.get("RANK", "0")
        if rank != "0" and path.exists():
            log = RunLog(path, print)
            log.write(f"rank {rank} ended by {type(error).__name__}: {plain(str(error))}")
            log.close()
        raise
