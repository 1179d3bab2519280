"""Files of spans beside `metrics.jsonl`: `RUN/spans/rank_00001.jsonl` of each rank but rank 0, and `servers.jsonl`.

They are for looking at a run (`egrc trace`), and no run ends or waits because of them.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from egrc_mega.observe.events import EventLog, read_events

FOLDER = "spans"
SERVERS = "servers"
"""Name of the file of what the servers did; those of ranks are called by `rank_name`."""
MAX_BYTES = 256 * 2**20
"""A file that has grown beyond is set aside, in the place of the one that was set aside before."""


def rank_name(rank: int) -> str:
    """Name of a rank's file, without its ending."""
    return f"rank_{rank:05d}"


class SpanLog:
    """Appends what has happened since the step before. Use as a context manager; a disk that refuses costs the rest."""

    def __init__(self, run_dir: Path, name: str, max_bytes: int = MAX_BYTES) -> None:
        self.path, self.max_bytes = run_dir / FOLDER / f"{name}.jsonl", max_bytes
        self._log: EventLog | None = None
        self._has_failed = False

    def write(self, step: int, **fields: Any) -> None:
        """Append what belongs to a step (counted from 1)."""
        if self._has_failed:
            return
        try:
            self._opened().write("spans", step=step, **fields)
        except OSError as error:
            self._has_failed = True
            reason = error.strerror or repr(error)
            print(f"egrc: {self.path} cannot be written ({reason}): traces lack its spans", file=sys.stderr, flush=True)

    def _opened(self) -> EventLog:
        if self._log and self.path.stat().st_size > self.max_bytes:
            self._close()
            os.replace(self.path, _set_aside(self.path))
        self._log = self._log or EventLog(self.path)
        return self._log

    def _close(self) -> None:
        log, self._log = self._log, None
        if log:
            log.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._close()
        except OSError:  # what was buffered for a full disk
            self._has_failed = True


def read_spans(run_dir: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every whole event of a file, in order, and before it of the one that was set aside."""
    path = run_dir / FOLDER / f"{name}.jsonl"
    for each in (_set_aside(path), path):
        if each.exists():
            yield from read_events(each)


def ranks_of(run_dir: Path) -> list[int]:
    """Numbers of the ranks that have a file, ascending."""
    names = (path.stem.removeprefix("rank_") for path in (run_dir / FOLDER).glob("rank_*.jsonl"))
    return sorted({int(name.removesuffix(".1")) for name in names if name.removesuffix(".1").isdigit()})


def _set_aside(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")
