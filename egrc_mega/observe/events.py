"""`metrics.jsonl`: one JSON object a line, appended and flushed; everything else a run shows is derived from it."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson


class EventLog:
    """Appends events, of any thread.

    A last line that a kill or a full disk has torn is ended first, so that it spoils no other.
    """

    def __init__(self, path: Path) -> None:
        self.newest: dict[str, dict[str, Any]] = {}
        """The newest event of each kind that was written here."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._one_at_a_time = threading.Lock()
        self._file = path.open("ab", buffering=0)  # what was held back would fail once more at the end
        self._is_torn = bool(self._file.tell()) and _last_byte(path) != b"\n"

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; NaN and infinity become null.

        Raises:
            OSError: of a disk that is full, with the file's name.
        """
        event = {"kind": kind, "time": time.time(), **fields}
        line = orjson.dumps(event) + b"\n"
        with self._one_at_a_time:
            self._append(b"\n" * self._is_torn + line)
            self.newest[kind] = event

    def _append(self, data: bytes) -> None:
        try:
            while data:
                written = self._file.write(data)
                data = data[written:]
                self._is_torn = bool(data)
        except OSError as error:
            error.filename = str(self.path)  # a write knows its file only by number
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole event, in order; torn lines are left out."""
    with path.open("rb") as file:
        for line in file:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict):
                yield event


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The step events in order; after a resume a step may stand twice, and the later one counts."""
    steps = {event["step"]: event for event in read_events(path) if event.get("kind") == "step"}
    return [steps[number] for number in sorted(steps)]


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
