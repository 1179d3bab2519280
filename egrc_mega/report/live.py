"""What a page that follows a run is told: only what it has not seen, and only what has changed.

A folder is looked at when somebody asks, and read again only where its files have changed, and so seldom that the run,
which goes on beside it, keeps its cores: reading takes at most a twentieth of the time.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import EgrcError
from egrc_mega.evaluation.results import RESULTS
from egrc_mega.evaluation.store import RESPONSES, TABLE
from egrc_mega.observe.rollouts import FOLDER
from egrc_mega.report.browser import clipped
from egrc_mega.report.build import METRICS, RunView
from egrc_mega.report.curves import curves_of, stride_of
from egrc_mega.report.settings import CONFIG, ENVIRONMENT
from egrc_mega.run_folder import ORIGINS, is_held

TEXTS_S = 20.0
"""At least so many seconds lie between two looks at the texts."""
REST = 19
"""After reading for a second nothing is read for so many."""
LIGHT_FILES = (METRICS, TABLE, RESPONSES, RESULTS, CONFIG, ORIGINS, ENVIRONMENT)
TEXT_FILES = (FOLDER, TABLE, RESPONSES)
"""What the two kinds of parts are made of; a folder changes when a file comes or goes."""
NOTHING = (0, 0, 0, 0, 0)

Stamps = tuple[tuple[int, int, int] | None, ...]


@dataclass
class Part:
    """One kind of parts as it was last read."""

    stamps: Stamps | None = None
    content: bytes = b"null"
    number: int = 0
    """Counted up with every reading."""
    rests_until: float = float("-inf")


class LiveRun:
    """A run's folder, as several pages follow it. Threads may share it."""

    def __init__(self, run_dir: Path, texts_s: float = TEXTS_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Look at the folder for the first time.

        Raises:
            RunError: there is nothing that a page could show.
        """
        self.run_dir, self.view = run_dir, RunView.of(run_dir)
        self._texts_s, self._clock = texts_s, clock
        self._epoch = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._light, self._texts = Part(), Part()
        self._shape = (0, 1, 0)
        """How often the journal's rows went again, steps a row, and rows of the curves, as `light` was last read."""
        self._trouble: str | None = None

    def is_gone(self) -> bool:
        """Whether the folder is no longer there."""
        return not self.run_dir.is_dir()

    def reply(self, seen: str) -> bytes:
        """What has changed since an earlier reply, as JSON; of what has not, None.

        Args:
            seen: `seen` of that reply. Anything else, also from an earlier server's, gets the whole.
        """
        with self._lock:
            self._look()
            light, texts, *shape = self._parsed(seen)
            is_new, has_new_texts = light != self._light.number, texts != self._texts.number
            numbers = self._light.number, self._texts.number, *self._shape
            last = self.view.journal.last
            return orjson.dumps(
                {
                    "seen": ".".join([self._epoch, *map(str, numbers)]),
                    "light": orjson.Fragment(self._light.content) if is_new else None,
                    "curves": self._curves(*shape) if is_new else None,
                    "texts": orjson.Fragment(self._texts.content) if has_new_texts else None,
                    "is_running": is_held(self.run_dir),
                    "is_gone": self.is_gone(),
                    "idle_s": None if last is None else max(0.0, time.time() - last),
                    "trouble": self._trouble,
                }
            )

    def _look(self) -> None:
        """Read what has changed; what cannot be read just now stays as it was, and that is said."""
        if self.is_gone():
            return
        try:
            self._read(self._light, LIGHT_FILES, self._read_light, 0.0)
            self._read(self._texts, TEXT_FILES, self.view.heavy, self._texts_s)
            self._trouble = None
        except (EgrcError, OSError) as error:
            self._trouble = clipped(str(error))

    def _read_light(self) -> dict[str, Any]:
        self.view.journal.advance()
        light, journal = self.view.light(), self.view.journal
        stride = stride_of(journal)
        self._shape = journal.changes, stride, -(-len(journal.steps) // stride)
        return light

    def _read(self, part: Part, names: tuple[str, ...], read: Callable[[], dict[str, Any]], least_s: float) -> None:
        begun = self._clock()
        # looked at before reading: what is written meanwhile is read again the next time
        stamps = tuple(_stamp(self.run_dir / name) for name in names)
        if stamps == part.stamps or begun < part.rests_until:
            return
        try:
            part.content = orjson.dumps(read())
            part.stamps, part.number = stamps, part.number + 1
        finally:
            now = self._clock()
            part.rests_until = now + max(least_s, REST * (now - begun))

    def _curves(self, changes: int, stride: int, rows: int) -> dict[str, Any]:
        """All of them for a page that has none, or others; else what came, and the last row, a mean of more by now."""
        is_same = (changes, stride) == self._shape[:2] and rows <= self._shape[2]
        return curves_of(self.view.journal, begin=max(0, rows - 1) if is_same else 0)

    def _parsed(self, seen: str) -> tuple[int, ...]:
        epoch, _, numbers = seen.partition(".")
        if epoch != self._epoch or not re.fullmatch(r"\d{1,9}(\.\d{1,9}){4}", numbers, re.ASCII):
            return NOTHING
        return tuple(map(int, numbers.split(".")))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from what stood there before; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
