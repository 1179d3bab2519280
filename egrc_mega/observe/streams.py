"""Standard output and error that may vanish: whoever watches a run and goes away does not end it."""

import contextlib
import os
import sys
from typing import Any, TextIO


class Bearing:
    """A text stream whose failures cost what was to be written, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or forget it."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush what is buffered, or forget it."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """From now on everything goes nowhere: what is buffered would fail again when the process ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def bear_lost_streams() -> None:
    """Have this process go on when its standard output or error is closed, full or gone."""
    sys.stdout, sys.stderr = Bearing(sys.stdout), Bearing(sys.stderr)
