"""A conversion that is killed, or whose disk is full or read-only, at whatever byte and step: whole or absent.

Each conversion is the command line in a process of its own, in which every byte it writes and every step by which it
changes a folder is counted. After it a second one must succeed, and nothing but the target may have changed.

Not covered: a machine that loses power, where the disk may lose what it has promised to hold.
"""

import builtins
import errno
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.cli.main import main
from egrc_mega.convert.conversion import hf_to_megatron
from egrc_mega.convert.source import open_source
from egrc_mega.convert.verify import compare
from egrc_mega.manifest import damages
from egrc_mega.testing.tiny_model import write_tiny_qwen2

NUM_KILLS, NUM_SIZES = 30, 20
QUICK = 3
"""Of each, in the usual suite."""
STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "ctypes.dlopen")
"""Steps besides the opening of files; the last is how a folder gets its name."""
FORK = multiprocessing.get_context("fork")
OPEN = io.open
TIMEOUT_S = 300


class Meter:
    """Counts what its process does to the disk, and calls `strike` from a given byte or a given step on."""

    def __init__(self, strike: Callable[[], None], *, byte: int | None = None, step: int | None = None) -> None:
        self.strike, self.byte, self.step = strike, byte, step
        self.counts = FORK.Array("q", 2, lock=False)
        """Bytes and steps, also for who has started the process."""

    def install(self, room: Path) -> None:
        """From here on every file is opened through the meter; there is no way back, so only in a process to spend."""
        Metered.meter, self.room = self, str(room)
        io.open = builtins.open = metered_open  # type: ignore[assignment]
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] is not None and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in STEPS or (writes and str(arguments[0]).startswith(self.room)):
            self.counts[1] += 1
            if self.step is not None and self.counts[1] >= self.step:
                self.strike()

    def pass_on(self, view: memoryview) -> int:
        """How many of these bytes are written before it strikes."""
        if self.step is not None and self.counts[1] >= self.step:
            self.strike()
        fits = len(view) if self.byte is None else min(len(view), self.byte - self.counts[0])
        self.counts[0] += fits
        return fits


class Metered(io.FileIO):
    """A file whose written bytes are counted."""

    meter: Meter

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        fits = self.meter.pass_on(view)
        written = super().write(view[:fits]) if fits else 0
        if fits < len(view):
            self.meter.strike()
        return written or 0


def metered_open(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **named: Any) -> Any:
    if not set(mode) & set("wxa+") or not str(file).startswith(Metered.meter.room):
        return OPEN(file, mode, buffering, *more, **named)
    raw = Metered(file, mode.replace("b", "").replace("t", ""))
    if buffering == 0:
        return raw
    buffered = io.BufferedWriter(raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_with(number: int) -> Callable[[], None]:
    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike


@dataclass
class Ended:
    """How a process has ended."""

    code: int | None
    text: str

    def assert_refused(self, code: int) -> None:
        """One line, and the exit code."""
        assert self.code == code, self.text
        lines = [line for line in self.text.splitlines() if "egrc: " in line]
        assert len(lines) == 1 and "Traceback" not in self.text, self.text


@dataclass
class Room:
    """A folder with what belongs to others, in which a conversion is to write `out`."""

    base: Path
    command: str
    source: Path
    foreign: dict[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.base / "room"

    @property
    def out(self) -> Path:
        return self.path / "out"

    def begin(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        for name in ("precious.txt", "out.old/notes.md", ".out.partial-mine/new/a.txt", ".other.partial-x-0/lock"):
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("mine")

    def run(self, prepare: Callable[[], object] = lambda: None) -> Ended:
        """The command, in a process of its own; `prepare` is called there before."""
        process, read = self.start(prepare)
        with OPEN(read, errors="replace") as pipe:
            text = pipe.read()
        process.join(TIMEOUT_S)
        return Ended(process.exitcode, text)

    def start(self, prepare: Callable[[], object]) -> tuple[Any, int]:
        read, write = os.pipe()

        def child() -> None:
            sys.stdout = sys.stderr = OPEN(write, "w", buffering=1)
            sys.argv = ["egrc", "convert", self.command, str(self.source), str(self.out)]
            prepare()
            main()

        process = FORK.Process(target=child)
        process.start()
        os.close(write)
        return process, read

    def metered(self, strike: Callable[[], None] = die, **at: int) -> tuple[Ended, Meter]:
        meter = Meter(strike, **at)
        return self.run(lambda: meter.install(self.path)), meter

    def new_names(self) -> list[str]:
        """What is there besides what was there at the beginning, whose content must be as it was."""
        mine = {"precious.txt", "out.old", ".out.partial-mine", ".other.partial-x-0"}
        files = [path for name in mine for path in (self.path / name).rglob("*") if path.is_file()]
        files.append(self.path / "precious.txt")
        assert len(files) == 4 and {path.read_text() for path in files} == {"mine"}
        return sorted(path.name for path in self.path.iterdir() if path.name not in mine)

    def assert_whole(self) -> None:
        inside = self.out / "iter_0000001" if self.command == "hf-to-megatron" else self.out
        assert damages(inside) == []
        assert compare(open_source(self.source), open_source(self.out)).difference is None

    def assert_next_one_succeeds(self) -> None:
        """Absent, and then written; or whole, and then left alone. Nothing of the disturbed one stays."""
        is_there = os.path.lexists(self.out)
        assert [name for name in self.new_names() if name != "out" and not name.startswith(".out.partial-")] == []
        ended = self.run()
        if is_there:
            ended.assert_refused(4)
        else:
            assert ended.code == 0, ended.text
        assert self.new_names() == ["out"]
        self.assert_whole()


@pytest.fixture(scope="module", params=["hf-to-megatron", "megatron-to-hf"])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Room:
    base = tmp_path_factory.mktemp("disturbed")
    source = write_tiny_qwen2(base / "hf")
    (source / "LICENSE").write_text("free")
    hf_to_megatron(source, base / "megatron")
    return Room(base, request.param, source if request.param == "hf-to-megatron" else base / "megatron")


@pytest.fixture(scope="module")
def totals(room: Room) -> tuple[int, int]:
    """Bytes and steps of an undisturbed conversion."""
    room.begin()
    ended, meter = room.metered()
    assert ended.code == 0, ended.text
    written = sum(path.stat().st_size for path in room.out.rglob("*") if path.is_file())
    assert meter.counts[0] == written  # no byte has found another way
    return meter.counts[0], meter.counts[1]


def chosen(request: pytest.FixtureRequest, values: list[int]) -> list[int]:
    """All with --full, else a few that lie apart."""
    return values if request.config.getoption("--full") else values[:: max(1, len(values) // QUICK)]


def test_kills_at_random_bytes(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    rng = random.Random(room.command)
    moments = sorted(rng.randrange(1, totals[0]) for _ in range(NUM_KILLS))
    for byte in chosen(request, moments):
        room.begin()
        ended, meter = room.metered(byte=byte)
        assert (ended.code, meter.counts[0]) == (-signal.SIGKILL, byte), ended.text
        assert not os.path.lexists(room.out)
        room.assert_next_one_succeeds()


def test_kills_at_every_step(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    steps = range(1, totals[1] + 1)
    wanted = list(steps) if request.config.getoption("--full") else [1, 2, 3, *steps[-5:]]
    for step in wanted:
        room.begin()
        ended, meter = room.metered(step=step)
        assert (ended.code, meter.counts[1]) == (-signal.SIGKILL, step), ended.text
        room.assert_next_one_succeeds()


def test_full_disks_of_every_size(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    for byte in chosen(request, [totals[0] * part // NUM_SIZES for part in range(NUM_SIZES)]):
        room.begin()
        ended, meter = room.metered(fail_with(errno.ENOSPC), byte=byte)
        ended.assert_refused(11)
        assert "No space left on device" in ended.text and str(room.out.name) in ended.text
        assert meter.counts[0] == byte
        assert room.new_names() == []
        room.assert_next_one_succeeds()


def test_a_disk_that_is_read_only_from_any_step_on(
    room: Room, totals: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    for step in chosen(request, list(range(1, totals[1] + 1))):
        room.begin()
        ended, _meter = room.metered(fail_with(errno.EROFS), step=step)
        if not os.path.lexists(room.out):
            ended.assert_refused(11)
            assert "Read-only file system" in ended.text
        room.assert_next_one_succeeds()


def test_files_that_the_system_lets_grow_no_further(
    room: Room, totals: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    """The system's own refusal, whoever writes: Python, torch's C++ or the kernel that copies a file."""
    room.begin()
    assert room.run().code == 0
    sizes = {path.stat().st_size for path in room.out.rglob("*") if path.is_file()}
    largest = max(sizes)
    for part in chosen(request, list(range(NUM_SIZES))):
        limits = (largest * part // NUM_SIZES,) * 2
        room.begin()
        ended = room.run(partial(resource.setrlimit, resource.RLIMIT_FSIZE, limits))
        ended.assert_refused(11)
        assert "File too large" in ended.text
        assert room.new_names() == []
        room.assert_next_one_succeeds()


def test_of_conversions_begun_at_one_moment_one_wins(room: Room, request: pytest.FixtureRequest) -> None:
    """Processes of their own, let go together: the others are refused, and take nothing of the winner's away."""
    for _ in range(NUM_SIZES if request.config.getoption("--full") else 2):
        room.begin()
        barrier = FORK.Barrier(3)
        started = [room.start(barrier.wait) for _ in range(3)]
        codes = []
        for process, read in started:
            with OPEN(read, errors="replace") as pipe:
                text = pipe.read()
            process.join(TIMEOUT_S)
            codes.append(process.exitcode)
            if process.exitcode:
                Ended(process.exitcode, text).assert_refused(4)
        assert sorted(codes) == [0, 4, 4]
        assert room.new_names() == ["out"]
        room.assert_whole()
