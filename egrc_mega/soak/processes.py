"""The processes of a soak: whose they are is told by the folder they work in, which all that they start inherits."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
FILES_ALLOWED = 12
"""More open files than at the first look are no growth yet: connections come and go."""
BYTES_ALLOWED = 64 * 2**20
"""More resident memory than at the first look is no growth yet: caches fill."""


def working_in(folder: Path) -> list[psutil.Process]:
    """Every process, this one left out, that works in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.cwd() == str(folder):
                found.append(process)
    return found


def server(folder: Path, number: int) -> psutil.Process | None:
    """The `number`-th server that works in a folder: its output goes into that one's log."""
    for process in working_in(folder):
        with suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/fd/1").endswith(f"/server_{number}.log"):
                return process
    return None


def running(folder: Path, module: str, name: str, without: int) -> psutil.Process | None:
    """The process that works in a folder and runs a module by `python -m`.

    Args:
        name: what it calls itself, where it has been forked and has the command line of who forked it.
        without: number of a process that is not meant.
    """
    for process in working_in(folder):
        with suppress(psutil.Error, OSError):
            is_it = module in process.cmdline() or process.name() == name
            if is_it and process.pid != without:
                return process
    return None


@dataclass
class Use:
    """What one process has used, at the first look and at the largest of the last ones."""

    name: str
    first: tuple[int, int]
    """Open files, and bytes of resident memory."""
    last: tuple[int, int]
    num_looks: int = 1

    @property
    def growth(self) -> tuple[int, int]:
        """From the first look to the last one."""
        return self.last[0] - self.first[0], self.last[1] - self.first[1]


@dataclass
class Growth:
    """Of processes that live long: each is held against what it was itself when it was first looked at."""

    uses: dict[tuple[int, float], Use] = field(default_factory=dict)
    """By number and birth: numbers are used again."""

    def look(self, name: str, process: psutil.Process) -> None:
        """Note what a process uses now; one that is gone uses nothing."""
        with suppress(psutil.Error, OSError):
            now = process.num_fds(), process.memory_info().rss
            use = self.uses.setdefault((process.pid, process.create_time()), Use(name, now, now, 0))
            use.last, use.num_looks = now, use.num_looks + 1

    def largest(self) -> dict[str, dict[str, int]]:
        """By name, how much the worst of the processes has grown, and how often that one was looked at."""
        found: dict[str, dict[str, int]] = {}
        for use in self.uses.values():
            files, num_bytes = use.growth
            known = found.setdefault(use.name, {"open_files": 0, "resident_bytes": 0, "looks": 0})
            known["open_files"] = max(known["open_files"], files)
            known["resident_bytes"] = max(known["resident_bytes"], num_bytes)
            known["looks"] = max(known["looks"], use.num_looks)
        return found

    def excess(self) -> list[str]:
        """A line for each process that has grown by more than is allowed."""
        return [
            f"{use.name} (process {pid}) has {use.last[0]} files open after {use.first[0]}, "
            f"and {use.last[1]:,} bytes in memory after {use.first[1]:,}"
            for (pid, _born), use in self.uses.items()
            if use.growth[0] > FILES_ALLOWED or use.growth[1] > BYTES_ALLOWED
        ]
