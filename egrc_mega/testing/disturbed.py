"""Command lines whose writes to the disk are counted, and struck at a given byte or step; a process of its own each.

`python -m egrc_mega.testing.disturbed` imports everything once, has a single thread, and forks processes for each line
of JSON on stdin: a fork of a test's own process would inherit the locks of other threads, and wait for them for ever.
"""

import builtins
import io
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

# what the command imports when it runs, here once for all that are forked
from pydantic import TypeAdapter  # noqa: F401

from egrc_mega.cli.main import main as main_of_egrc
from egrc_mega.convert import conversion  # noqa: F401
from egrc_mega.observe import progress  # noqa: F401

STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.dlopen")
"""Steps besides the opening of files; the last is how a folder gets its name."""
OPEN = io.open


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What befalls a process."""

    room: str
    """Only what is written below it counts."""
    error: int = 0
    """The system's number of the error that a strike raises; 0: a strike kills the process."""
    byte: int | None = None
    """It strikes when so many bytes are written."""
    step: int | None = None
    """It strikes from this step on, counted from 1."""
    file_bytes: int | None = None
    """No file grows beyond: the system's own refusal."""


@dataclass(frozen=True)
class Ended:
    """How a process has ended, and how many bytes and steps it has made."""

    code: int
    text: str
    num_bytes: int
    num_steps: int

    def assert_refused(self, code: int) -> None:
        """One line, and the exit code."""
        assert self.code == code, self.text
        lines = [line for line in self.text.splitlines() if "egrc: " in line]
        assert len(lines) == 1 and "Traceback" not in self.text, self.text


class Commands:
    """The process that forks them. Use as a context manager."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "egrc_mega.testing.disturbed"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, arguments: list[str], disturbance: Disturbance, times: int = 1) -> list[Ended]:
        """`egrc` with arguments, so many times at one moment."""
        assert self._process.stdin and self._process.stdout
        request = {"arguments": arguments, "disturbance": asdict(disturbance), "times": times}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return [Ended(**ended) for ended in json.loads(self._process.stdout.readline())]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


class _Meter:
    """Counts what its process does to the disk, and strikes."""

    def __init__(self, disturbance: Disturbance) -> None:
        self.disturbance = disturbance
        self._shared = mmap.mmap(-1, 16)
        """Bytes and steps, also for who has forked the process."""

    @property
    def counts(self) -> tuple[int, int]:
        num_bytes, num_steps = struct.unpack("qq", self._shared[:])
        return num_bytes, num_steps

    def _count(self, num_bytes: int, num_steps: int) -> None:
        before = self.counts
        self._shared[:] = struct.pack("qq", before[0] + num_bytes, before[1] + num_steps)

    def install(self) -> None:
        """From here on every file is opened through the meter; there is no way back, so only in a process to spend."""
        _Metered.meter = self
        io.open = builtins.open = _metered_open
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in STEPS or (writes and str(arguments[0]).startswith(self.disturbance.room)):
            self._count(0, 1)
            if self._is_due():
                self.strike()

    def pass_on(self, view: memoryview) -> int:
        """How many of these bytes are written before it strikes."""
        if self._is_due():
            self.strike()
        limit = self.disturbance.byte
        fits = len(view) if limit is None else min(len(view), limit - self.counts[0])
        self._count(fits, 0)
        return fits

    def _is_due(self) -> bool:
        return self.disturbance.step is not None and self.counts[1] >= self.disturbance.step

    def strike(self) -> None:
        """Kill this process, or refuse what it is about to do."""
        if not self.disturbance.error:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.disturbance.error, os.strerror(self.disturbance.error))


class _Metered(io.FileIO):
    """A file whose written bytes are counted."""

    meter: _Meter

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        fits = self.meter.pass_on(view)
        written = super().write(view[:fits]) if fits else 0
        if fits < len(view):
            self.meter.strike()
        return written or 0


def _metered_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
    if not set(mode) & set("wxa+") or not str(file).startswith(_Metered.meter.disturbance.room):
        return OPEN(file, mode, buffering, *more, **named)
    raw = _Metered(file, mode.replace("b", "").replace("t", ""))
    if buffering == 0:
        return raw
    buffered = io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")


@dataclass(frozen=True)
class _Child:
    """A process that waits for its sign, and the pipe with what it says."""

    pid: int
    meter: _Meter
    output: int


def _fork(arguments: list[str], meter: _Meter, sign: tuple[int, int]) -> _Child:
    """A new process; it begins when nobody holds the second end of `sign` any more, and does not come back here."""
    output, said = os.pipe()
    pid = os.fork()
    if pid:
        os.close(said)
        return _Child(pid, meter, output)
    code = 1
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = sys.stderr = OPEN(said, "w", buffering=1)
        sys.argv = ["egrc", *arguments]
        os.close(sign[1])
        os.read(sign[0], 1)
        limit = meter.disturbance.file_bytes
        if limit is None:
            meter.install()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = _exit_code_of_main()
    finally:
        os._exit(code)


def _exit_code_of_main() -> int:
    try:
        main_of_egrc()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _ended(child: _Child) -> Ended:
    code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    with OPEN(child.output, errors="replace") as pipe:  # a few lines, which the pipe holds
        return Ended(code, pipe.read(), *child.meter.counts)


def main() -> None:
    """Answer each line of stdin with a line of how its processes have ended."""
    for line in sys.stdin:
        request = json.loads(line)
        disturbance = Disturbance(**request["disturbance"])
        sign = os.pipe()
        children = [_fork(request["arguments"], _Meter(disturbance), sign) for _ in range(request["times"])]
        os.close(sign[1])
        ended = [asdict(_ended(child)) for child in children]
        os.close(sign[0])
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
