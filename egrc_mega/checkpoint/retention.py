"""Which steps stay. Whatever the rules, the newest whole step does; what is not whole neither counts nor vanishes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from egrc_mega.checkpoint.pointers import BEST, STEP, pointed
from egrc_mega.checkpoint.state_file import IS_STAGE_END, read_state
from egrc_mega.errors import CheckpointError
from egrc_mega.faults import fault_point
from egrc_mega.manifest import is_complete


@dataclass(frozen=True, slots=True)
class Retention:
    """The ends of stages and the best step stay for ever; so do these."""

    keep_last: int
    """So many of the newest others, at least one."""
    keep_every: int | None = None
    """Steps whose number is a multiple; None: none."""
    run_bytes: int | None = None
    """Of the run's folder: above it these go, too, the oldest first, but not the newest. None: no limit."""
    held: frozenset[int] = frozenset()
    """Steps that stay whatever the rules: nobody knows yet whether one of them is the best."""

    def removable(self, folder: Path, committed: int) -> list[Path]:
        """The whole steps of a folder that need not stay now that a step is committed, oldest first.

        Later ones do not count: a resume has passed them over, and they must not push out one that is known whole.
        """
        best = pointed(folder, BEST)
        candidates = [path for path in whole_steps(folder) if step_number(path) <= committed]
        passing = [path for path in candidates if not _ends_a_stage(path) and step_number(path) not in self.held]
        others = [path for path in passing if not (self.keep_every and step_number(path) % self.keep_every == 0)]
        doomed = {path for path in others[: -self.keep_last] if path.name != best}
        excess = self.excess(folder) - sum(size_of(path) for path in doomed)
        for path in passing:
            if excess > 0 and path not in doomed and path.name != best and step_number(path) != committed:
                doomed.add(path)
                excess -= size_of(path)
        return sorted(doomed, key=step_number)

    def excess(self, folder: Path) -> int:
        """By how many bytes the run, whose folder of steps is given, is above its limit."""
        return 0 if self.run_bytes is None else max(0, size_of(folder.parent) - self.run_bytes)


def _ends_a_stage(path: Path) -> bool:
    try:
        return bool(read_state(path).get(IS_STAGE_END))
    except CheckpointError:  # of a program that knows better
        return True


def prune(folder: Path, retention: Retention, step: int) -> None:
    """Remove what need not stay now that `step` is committed; a kill leaves no half step under its name."""
    for path in retention.removable(folder, step):
        doomed = path.with_name(f"{path.name}.tmp")
        path.rename(doomed)
        fault_point("checkpoint.pruning", step)
        shutil.rmtree(doomed)


def steps(folder: Path) -> list[Path]:
    """Everything that has the name of a step, oldest first; it need not be a folder."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted((path for path in found if STEP.fullmatch(path.name)), key=step_number)


def whole_steps(folder: Path) -> list[Path]:
    """Steps that are folders of their own with every file of their manifest at its size, oldest first."""
    return [path for path in steps(folder) if not path.is_symlink() and path.is_dir() and is_complete(path)]


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder, in which others may write and remove meanwhile; a file of two names is one."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _folders, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found = (Path(place) / name).lstat()
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def unfinished(folder: Path) -> Iterator[Path]:
    """What a killed trainer was writing, or removing."""
    yield from folder.glob("step_*.tmp")


def remove(path: Path) -> None:
    """Remove a folder, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def step_number(path: Path) -> int:
    """The number in a step's name."""
    return int(path.name.removeprefix("step_"))
