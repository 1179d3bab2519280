"""Standard output and error that may vanish, and on which text of others does not act.

Whoever watches a run and goes away does not end it. Whatever is printed, logged, warned of or told by a traceback may
quote a model, a file or a server: it is shown without what a terminal would obey. rich, which colours and moves on
purpose, gets at the stream below; what is handed to it is made plain by who does so.
"""

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from egrc_mega.plain_text import plain


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


class Plain:
    """A text stream on which nothing that is written acts on a terminal."""

    def __init__(self, stream: TextIO | Bearing) -> None:
        self.rich_proxied_file = stream
        """What rich writes to: it asks for it by this name (`Console.file`)."""

    def write(self, text: str) -> int:
        """Write the text with each character that acts as its escape."""
        self.rich_proxied_file.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write the texts, one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def show_text_plain() -> None:
    """From now on nothing that this process prints acts on a terminal."""
    sys.stdout, sys.stderr = Plain(_below(sys.stdout)), Plain(_below(sys.stderr))


def bear_lost_streams() -> None:
    """Have this process go on when its standard output or error is closed, full or gone; and show text plain."""
    sys.stdout, sys.stderr = Plain(Bearing(_below(sys.stdout))), Plain(Bearing(_below(sys.stderr)))


def _below(stream: TextIO) -> Any:
    return stream.rich_proxied_file if isinstance(stream, Plain) else stream
