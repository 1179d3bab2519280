"""The trackers of a run: children that are started with it, and that cannot stop or slow it."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from egrc_mega.sections.run import TrackerName
from egrc_mega.trackers.process import FOLDER

LAST_WORDS_S = 20.0
"""For all trackers together, after the run's end."""


class Trackers:
    """Use as a context manager: leaving it lets the trackers send what is left, for a while."""

    def __init__(self, names: Sequence[TrackerName], run: Path, note: Callable[[str], None]) -> None:
        """`note`: takes the one line that is said of a tracker which fails."""
        self.run, self.note = run, note
        self.children: dict[TrackerName, subprocess.Popen[bytes]] = {}
        for name in names:
            try:
                self.children[name] = self._start(name)
            except OSError as error:
                note(f"warning: tracker {name} cannot be started: {error}; the run goes on without it")

    def _start(self, name: TrackerName) -> "subprocess.Popen[bytes]":
        (self.run / FOLDER).mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", "-m", "egrc_mega.trackers.process", name, str(self.run.resolve())]
        with self._log(name).open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)

    def _log(self, name: TrackerName) -> Path:
        return self.run / FOLDER / f"{name}.log"

    def check(self) -> None:
        """Say once of each tracker that has failed that it did."""
        for name, child in list(self.children.items()):
            if child.poll() is not None:
                del self.children[name]
                self._complain(name, f"has ended with exit code {child.returncode}")

    def _complain(self, name: TrackerName, what: str) -> None:
        self.note(
            f"warning: tracker {name} {what} ({self._log(name)}); the run goes on, metrics.jsonl has everything, and "
            f"egrc track {self.run} --to {name} sends the rest"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        deadline = time.monotonic() + LAST_WORDS_S
        for child in self.children.values():
            assert child.stdin is not None
            child.stdin.close()
        for name, child in self.children.items():
            try:
                if child.wait(max(0.0, deadline - time.monotonic())):
                    self._complain(name, f"has ended with exit code {child.returncode}")
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                self._complain(name, f"was not done {LAST_WORDS_S:g} s after the run's end")
