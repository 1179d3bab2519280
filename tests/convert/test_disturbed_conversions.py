"""A conversion that is killed, or whose disk is full or read-only, at whatever byte and step: whole or absent.

Each conversion is the command line in a process of its own, in which every byte it writes and every step by which it
changes a folder is counted. After it a second one must succeed, and nothing but the target may have changed.

Not covered: a machine that loses power, where the disk may lose what it has promised to hold.
"""

import errno
import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from egrc_mega.convert.conversion import hf_to_megatron
from egrc_mega.convert.source import open_source
from egrc_mega.convert.verify import compare
from egrc_mega.manifest import damages
from egrc_mega.testing.disturbed import Commands, Disturbance, Ended
from egrc_mega.testing.tiny_model import write_tiny_qwen2

NUM_KILLS, NUM_SIZES = 30, 20
QUICK = 3
"""Of each, in the usual suite."""


@dataclass
class Room:
    """A folder with what belongs to others, in which a conversion is to write `out`."""

    base: Path
    command: str
    source: Path
    commands: Commands

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

    def run(self, **disturbance: int) -> Ended:
        """The command, in a process of its own."""
        return self.run_at_once(1, **disturbance)[0]

    def run_at_once(self, times: int, **disturbance: int) -> list[Ended]:
        arguments = ["convert", self.command, str(self.source), str(self.out)]
        return self.commands.run(arguments, Disturbance(room=str(self.path), **disturbance), times)

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


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as running:
        yield running


@pytest.fixture(scope="module", params=["hf-to-megatron", "megatron-to-hf"])
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Room:
    base = tmp_path_factory.mktemp("disturbed")
    source = write_tiny_qwen2(base / "hf")
    (source / "LICENSE").write_text("free")
    hf_to_megatron(source, base / "megatron")
    return Room(base, request.param, source if request.param == "hf-to-megatron" else base / "megatron", commands)


@pytest.fixture(scope="module")
def totals(room: Room) -> tuple[int, int]:
    """Bytes and steps of an undisturbed conversion."""
    room.begin()
    ended = room.run()
    assert ended.code == 0, ended.text
    written = sum(path.stat().st_size for path in room.out.rglob("*") if path.is_file())
    assert ended.num_bytes == written  # no byte has found another way
    return ended.num_bytes, ended.num_steps


def chosen(request: pytest.FixtureRequest, values: list[int]) -> list[int]:
    """All with --full, else a few that lie apart."""
    return values if request.config.getoption("--full") else values[:: max(1, len(values) // QUICK)]


def test_kills_at_random_bytes(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    rng = random.Random(room.command)
    moments = sorted(rng.randrange(1, totals[0]) for _ in range(NUM_KILLS))
    for byte in chosen(request, moments):
        room.begin()
        ended = room.run(byte=byte)
        assert (ended.code, ended.num_bytes) == (-signal.SIGKILL, byte), ended.text
        assert not os.path.lexists(room.out)
        room.assert_next_one_succeeds()


def test_kills_at_every_step(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    steps = range(1, totals[1] + 1)
    wanted = list(steps) if request.config.getoption("--full") else [1, 2, 3, *steps[-5:]]
    for step in wanted:
        room.begin()
        ended = room.run(step=step)
        assert (ended.code, ended.num_steps) == (-signal.SIGKILL, step), ended.text
        room.assert_next_one_succeeds()


def test_full_disks_of_every_size(room: Room, totals: tuple[int, int], request: pytest.FixtureRequest) -> None:
    for byte in chosen(request, [totals[0] * part // NUM_SIZES for part in range(NUM_SIZES)]):
        room.begin()
        ended = room.run(error=errno.ENOSPC, byte=byte)
        ended.assert_refused(11)
        assert "No space left on device" in ended.text and str(room.out.name) in ended.text
        assert ended.num_bytes == byte
        assert room.new_names() == []
        room.assert_next_one_succeeds()


def test_a_disk_that_is_read_only_from_any_step_on(
    room: Room, totals: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    for step in chosen(request, list(range(1, totals[1] + 1))):
        room.begin()
        ended = room.run(error=errno.EROFS, step=step)
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
        room.begin()
        ended = room.run(file_bytes=largest * part // NUM_SIZES)
        ended.assert_refused(11)
        assert "File too large" in ended.text
        assert room.new_names() == []
        room.assert_next_one_succeeds()


def test_of_conversions_begun_at_one_moment_one_wins(room: Room, request: pytest.FixtureRequest) -> None:
    """Processes of their own, let go together: the others are refused, and take nothing of the winner's away."""
    for _ in range(NUM_SIZES if request.config.getoption("--full") else 2):
        room.begin()
        ended = room.run_at_once(3)
        for one in ended:
            if one.code:
                one.assert_refused(4)
        assert sorted(one.code for one in ended) == [0, 4, 4]
        assert room.new_names() == ["out"]
        room.assert_whole()
