"""The last step of writing: whole or absent, never in place of what was not made here, nothing left by the dead."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from egrc_mega.convert import publish
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.publish import new_folder
from egrc_mega.errors import ModelError, StorageError
from egrc_mega.manifest import damages, write_manifest
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.fixture(params=["hf_to_megatron", "megatron_to_hf"])
def convert(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """A conversion in either direction to tmp_path/room/out."""
    source = write_tiny_qwen2(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "megatron")
    (tmp_path / "room").mkdir()
    function, origin = (hf_to_megatron, "hf") if request.param == "hf_to_megatron" else (megatron_to_hf, "megatron")
    return lambda **options: function(tmp_path / origin, tmp_path / "room/out", **options)


def fill(folder: Path, text: str = "new") -> None:
    (folder / "file.txt").write_text(text)
    write_manifest(folder, {}, durable=False)


@pytest.mark.parametrize("kind", ["folder", "file", "link", "empty folder"])
def test_what_comes_into_being_meanwhile_stays_as_it_is(kind: str, convert: Callable, tmp_path: Path) -> None:
    target = tmp_path / "room/out"

    def put(_count: int) -> None:
        if os.path.lexists(target):
            return
        if kind in ("folder", "empty folder"):
            target.mkdir()
        if kind == "folder":
            (target / "precious.txt").write_text("mine")
        if kind == "file":
            target.write_text("mine")
        if kind == "link":
            target.symlink_to("nowhere")

    with pytest.raises(ModelError, match=r"out (exists already|has come into being)"):
        convert(advance=put)
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert kind != "folder" or (target / "precious.txt").read_text() == "mine"
    assert kind != "link" or os.readlink(target) == "nowhere"


@pytest.mark.parametrize("has_flags", [True, False])
def test_a_rename_never_replaces_even_where_the_file_system_knows_no_flags(
    has_flags: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_flags:
        monkeypatch.setattr(publish, "_renameat2", lambda *_: False)
    target = tmp_path / "out"
    monkeypatch.setattr(publish, "_require_free", lambda *_args, **_more: None)  # the moment between look and rename
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(ModelError, match="has come into being meanwhile"), new_folder(target, durable=False) as partial:
        fill(partial)
    assert (target / "precious.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [target]


def test_even_an_empty_folder_that_somebody_else_has_just_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    monkeypatch.setattr(publish, "_require_free", lambda *_args, **_more: None)
    target.mkdir()
    with pytest.raises(ModelError, match="has come into being meanwhile"), new_folder(target, durable=False) as partial:
        fill(partial)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("has_flags", [True, False])
def test_only_what_was_written_here_is_replaced_and_what_others_put_there_stays_beside_it(
    has_flags: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_flags:
        monkeypatch.setattr(publish, "_renameat2", lambda *_: False)
    target = tmp_path / "out"
    for text in ("one", "two"):
        with new_folder(target, durable=True, replaces=True) as partial:
            fill(partial, text)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (target / "notes.md").write_text("mine")
    with new_folder(target, durable=False, replaces=True) as partial:
        fill(partial, "three")
    assert (target / "file.txt").read_text() == "three"
    (kept,) = tmp_path.glob("out.replaced-*")
    assert [path.name for path in kept.iterdir()] == ["notes.md"]
    (target / "manifest.sha256.json").unlink()
    with pytest.raises(ModelError, match="it is somebody else's"), new_folder(target, durable=False, replaces=True):
        pytest.fail("nothing is begun")
    assert (target / "file.txt").read_text() == "three"


def test_of_two_conversions_to_one_target_one_wins_and_the_other_is_refused(convert: Callable, tmp_path: Path) -> None:
    rounds: list[int] = []

    def second(_count: int) -> None:
        rounds.append(1)
        if len(rounds) == 3:
            convert()

    with pytest.raises(ModelError, match=r"out (exists already|has come into being)"):
        convert(advance=second)
    assert [path.name for path in (tmp_path / "room").iterdir()] == ["out"]
    inside = tmp_path / "room/out/iter_0000001"
    assert damages(inside if inside.exists() else tmp_path / "room/out") == []


def killed_at(convert: Callable, count: int) -> None:
    """Run a conversion in a forked process that kills itself after so many tensors."""
    left = [count]

    def kill(_count: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=convert, kwargs={"advance": kill})
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("count", [1, 6])
def test_what_a_killed_conversion_leaves_is_no_folder_and_goes_with_the_next_run(
    count: int, convert: Callable, tmp_path: Path
) -> None:
    killed_at(convert, count)
    (left,) = (tmp_path / "room").iterdir()
    assert left.name.startswith(".out.partial-")
    foreign = [left.with_name(".out.partial-mine"), left.with_name(".other.partial-x-0123456789abcdef")]
    for path in foreign:
        path.mkdir()
    convert()
    assert sorted(path.name for path in (tmp_path / "room").iterdir()) == sorted(["out", *(p.name for p in foreign)])


def test_a_living_partial_is_left_to_its_owner(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target, durable=False) as one:
        fill(one)
        with pytest.raises(RuntimeError, match="mine"), new_folder(target, durable=False):
            raise RuntimeError("mine")
        assert (one / "file.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_room_nothing_is_begun(convert: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"bytes are to be written, the disk has room for 1,000"):
        convert()
    assert list((tmp_path / "room").iterdir()) == []


class Disk:
    """Writes that end with an error of the operating system after so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int) -> None:
        from egrc_mega.manifest import HashedWriter

        real, self.room = HashedWriter._write_all, room

        def write(writer: HashedWriter, view: memoryview) -> None:
            self.room -= len(view)
            if self.room < 0:
                raise OSError(number, os.strerror(number))
            real(writer, view)

        monkeypatch.setattr(HashedWriter, "_write_all", write)


@pytest.mark.parametrize("room", [0, 100, 5_000, 20_000, 60_000])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fills_up_leaves_nothing_and_says_so(
    room: int, number: int, convert: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        Disk(patched, room, number)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as error:
            convert()
        assert error.value.filename == str(tmp_path / "room/out")
    assert list((tmp_path / "room").iterdir()) == []
    convert()


def test_what_is_dead_goes_whatever_the_moment_it_died_at(tmp_path: Path) -> None:
    """Killed before the lock was there, while its folder was removed, or with everything written."""
    target = tmp_path / "out"
    empty, begun, whole = (Path(f"{tmp_path / publish._prefix(target)}{digit * 16}") for digit in "abc")
    for place in (empty, begun, whole):
        place.mkdir()
    for place in (begun, whole):
        (place / "lock").touch()
    (whole / "new").mkdir()
    fill(whole / "new")
    unknown = Path(f"{tmp_path / publish._prefix(target)}{'d' * 16}")
    unknown.mkdir()
    (unknown / "file.txt").write_text("without a lock it is nobody's of ours")
    publish.remove_dead(target)
    assert list(tmp_path.iterdir()) == [unknown]


def test_a_place_that_is_taken_for_dead_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moments, names = publish.fcntl.flock, [], iter("abc")
    monkeypatch.setattr(publish.secrets, "token_hex", lambda _size: next(names) * 16)

    def flock(lock: object, flags: int) -> None:
        moments.append(flags)
        if len(moments) == 1:
            raise BlockingIOError  # another has its hand on it
        if len(moments) == 2:
            shutil.rmtree(f"{tmp_path / publish._prefix(tmp_path / 'out')}{'b' * 16}")
        real(lock, flags)

    monkeypatch.setattr(publish.fcntl, "flock", flock)
    with new_folder(tmp_path / "out", durable=False) as partial:
        fill(partial)
    assert (tmp_path / "out/file.txt").exists()
    assert len(moments) == 3


def test_a_replaced_folder_whose_remover_was_killed_keeps_what_others_put_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target, durable=False, replaces=True) as partial:
        fill(partial, "one")
    (target / "notes.md").write_text("mine")

    def replace_and_die() -> None:
        publish._remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        with new_folder(target, durable=False, replaces=True) as partial:
            fill(partial, "two")

    child = multiprocessing.get_context("fork").Process(target=replace_and_die)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert (target / "file.txt").read_text() == "two"
    publish.remove_dead(target)
    (kept,) = (path for path in tmp_path.iterdir() if path != target)
    assert kept.name.startswith("out.replaced-")
    assert [path.read_text() for path in kept.iterdir()] == ["mine"]


def test_what_somebody_has_edited_in_a_replaced_folder_is_kept(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.txt").write_text("b")
    with new_folder(target, durable=False, replaces=True) as partial:
        (partial / "sub").mkdir()
        for name in ("a.txt", "sub/b.txt"):
            (partial / name).write_text("b")
        fill(partial)
    (target / "a.txt").write_text("B")
    shutil.rmtree(target / "sub")
    (target / "sub").symlink_to(elsewhere)
    with new_folder(target, durable=False, replaces=True) as partial:
        fill(partial)
    (kept,) = tmp_path.glob("out.replaced-*")
    assert sorted(path.name for path in kept.iterdir()) == ["a.txt", "sub"]
    assert (elsewhere / "b.txt").read_text() == "b"


def test_of_a_folder_with_a_torn_manifest_nothing_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    fill(target, "one")
    (target / "manifest.sha256.json").write_text('{"file.t')
    with new_folder(target, durable=False, replaces=True) as partial:
        fill(partial, "two")
    (kept,) = tmp_path.glob("out.replaced-*")
    assert (kept / "file.txt").read_text() == "one"
    assert (target / "file.txt").read_text() == "two"
