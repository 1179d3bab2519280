"""What a save does to the folder of checkpoints: refused, killed at every point, in the background, on two ranks."""

import errno
import json
import multiprocessing
import os
import shutil
import threading
from collections import namedtuple
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from egrc_mega import manifest
from egrc_mega.checkpoint import commit
from egrc_mega.checkpoint import store as store_file
from egrc_mega.checkpoint.pointers import BEST, point, pointed
from egrc_mega.checkpoint.retention import Retention, size_of
from egrc_mega.checkpoint.store import CheckpointStore, load, read_state
from egrc_mega.config.config import Config
from egrc_mega.errors import CheckpointError
from egrc_mega.faults import SAVE_POINTS, VARIABLE
from egrc_mega.testing.checkpoint_worker import (
    END,
    FEW_STEPS,
    SMALL,
    TensorState,
    killed_at,
    refused_on_one_rank,
    train,
)
from egrc_mega.testing.disks import tiny_disk
from egrc_mega.testing.gloo import HANG_LIMIT_S, PRELOADED, run_on_gloo
from egrc_mega.training.commits import open_store

pytestmark = pytest.mark.usefixtures("world_of_one")

Usage = namedtuple("Usage", "free")


@pytest.fixture
def state(base_model: Path) -> TensorState:
    return TensorState(base_model, *SMALL)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory, base_model: Path, world_of_one: None) -> Path:
    folder = tmp_path_factory.mktemp("one") / "checkpoints"
    CheckpointStore(folder, keep=2).save(1, TensorState(base_model, *SMALL), {})
    return folder / "step_000001"


def names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def passed_over(store: CheckpointStore, capsys: pytest.CaptureFixture[str]) -> str:
    """Why the newest step of two is; the older is taken."""
    assert store.newest() == store.folder / "step_000001"
    (line,) = capsys.readouterr().out.splitlines()
    start = f"checkpoint {store.folder / 'step_000002'} is passed over: "
    assert line.startswith(start)
    return line.removeprefix(start)


@pytest.fixture
def two_steps(store: CheckpointStore, one_step: Path) -> CheckpointStore:
    for number in (1, 2):
        shutil.copytree(one_step, store.folder / f"step_{number:06d}")
    return store


def test_a_manifest_names_every_file_with_size_and_sum(one_step: Path) -> None:
    files = {file.relative_to(one_step).as_posix() for file in one_step.rglob("*") if file.is_file()}
    entries = json.loads((one_step / "manifest.sha256.json").read_text())
    assert set(entries) == files - {"manifest.sha256.json"}
    assert all(entry["size_bytes"] == (one_step / name).stat().st_size for name, entry in entries.items())
    assert all(len(entry["sha256"]) == 64 for entry in entries.values())


@pytest.mark.parametrize("text", ["{}", "[]", "", "null", '{"state.json": 1}', '{"../x": {}}', '{"state.json": {}}'])
def test_a_manifest_that_vouches_for_nothing_is_not_believed(
    two_steps: CheckpointStore, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (two_steps.folder / "step_000002" / "manifest.sha256.json").write_text(text)
    assert passed_over(two_steps, capsys).startswith("manifest.sha256.json cannot be read")


def test_a_manifest_that_leaves_a_file_out_is_not_believed(
    two_steps: CheckpointStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_steps.folder / "step_000002" / "manifest.sha256.json"
    manifest = json.loads(path.read_text())
    for name in manifest:
        file, others = path.parent / name, {other: manifest[other] for other in manifest if other != name}
        path.write_text(json.dumps(others))
        assert passed_over(two_steps, capsys) == f"{name} is not in manifest.sha256.json"
        data = file.read_bytes()
        file.unlink()  # left out and gone
        if not name.startswith("huggingface/"):  # without those it can be resumed
            assert name in passed_over(two_steps, capsys)
        file.write_bytes(data)


def test_a_state_of_another_schema_is_passed_over(
    two_steps: CheckpointStore, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = two_steps.folder / "step_000002"
    raw = json.loads((folder / "state.json").read_text())
    assert raw["schema_version"] == 1
    (folder / "state.json").write_text(json.dumps(raw | {"schema_version": 2}))
    commit.write_manifest(folder, {}, durable=False)
    manifest = json.loads((folder / "manifest.sha256.json").read_text())
    manifest.pop("manifest.sha256.json", None)
    (folder / "manifest.sha256.json").write_text(json.dumps(manifest))
    assert "schema_version is 2, this program knows 1" in passed_over(two_steps, capsys)


def test_a_step_that_the_disk_does_not_give_is_passed_over(
    two_steps: CheckpointStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = manifest._damage

    def fail(path: Path, *more: Any) -> Any:
        if path == two_steps.folder / "step_000002" / "common.pt":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *more)

    monkeypatch.setattr(manifest, "_damage", fail)
    assert "Input/output error" in passed_over(two_steps, capsys)


def test_what_nfs_leaves_in_a_step_makes_it_no_less_whole(two_steps: CheckpointStore) -> None:
    newest = two_steps.folder / "step_000002"
    for place in (newest, newest / "huggingface"):
        (place / ".nfs0000000001").write_text("x")
    assert two_steps.newest() == newest


def test_steps_that_are_links_or_files_are_passed_over_and_set_aside_when_they_are_written(
    store: CheckpointStore, state: TensorState, capsys: pytest.CaptureFixture[str]
) -> None:
    store.save(1, state, {})
    before = {file: file.read_bytes() for file in (store.folder / "step_000001").rglob("*") if file.is_file()}
    (store.folder / "step_000002").symlink_to(store.folder / "step_000001")
    (store.folder / "step_000003").write_text("somebody's")
    (store.folder / "step_000003.tmp").write_text("somebody's")
    assert store.newest() == store.folder / "step_000001"
    told = capsys.readouterr().out
    assert f"step_000002 is passed over: it is a link to {store.folder / 'step_000001'}" in told
    assert "step_000003 is passed over: it is a file, not a folder" in told
    for number in (2, 3):
        store.save(number, state, {}, is_stage_end=True)
        assert store.newest() == store.folder / f"step_{number:06d}"
    aside = sorted(path for path in store.folder.iterdir() if ".aside-" in path.name)
    assert aside[0].readlink() == store.folder / "step_000001" and aside[1].read_text() == "somebody's"
    assert {file: file.read_bytes() for file in before} == before


def test_every_k_th_step_the_best_one_and_ends_of_stages_stay(tmp_path: Path, state: TensorState) -> None:
    store = CheckpointStore(tmp_path, keep=1, keep_every=4)
    for number in range(1, 10):
        store.save(number, state, {}, is_stage_end=number == 2)
        if number == 3:
            point(tmp_path, BEST, 3)
    assert names(store) == ["best", "latest", *(f"step_00000{n}" for n in (2, 3, 4, 8, 9))]


def test_steps_that_are_held_stay_for_as_long_as_they_are_and_no_longer(tmp_path: Path, state: TensorState) -> None:
    store = CheckpointStore(tmp_path, keep=1, run_bytes=1)
    store.hold([2, 3])
    for number in range(1, 5):
        store.save(number, state, {})
    assert names(store) == ["latest", *(f"step_00000{n}" for n in (2, 3, 4))]
    assert [store.has(number) for number in range(1, 5)] == [False, True, True, True]
    store.hold([3])
    store.save(5, state, {})
    assert names(store) == ["latest", "step_000003", "step_000005"]


def test_a_budget_of_the_runs_folder_takes_the_oldest_steps_but_no_end_no_best_and_not_the_newest(
    tmp_path: Path, state: TensorState, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints"
    CheckpointStore(folder, keep=9).save(1, state, {}, is_stage_end=True)
    step, other = size_of(folder), tmp_path / "rollouts" / "step_000001.safetensors"
    other.parent.mkdir()
    other.write_bytes(bytes(step))  # what else the run holds counts
    store = CheckpointStore(folder, keep=9, keep_every=4, run_bytes=6 * step - step // 2)
    for number in range(2, 7):
        store.save(number, state, {})
        if number == 2:
            point(folder, BEST, 2)
    assert names(store) == ["best", "latest", *(f"step_00000{n}" for n in (1, 2, 5, 6))]
    assert capsys.readouterr().out == ""
    other.write_bytes(bytes(9 * step))
    store.save(7, state, {})
    assert names(store) == ["best", "latest", *(f"step_00000{n}" for n in (1, 2, 7))]
    assert f"{tmp_path} has 0.00 GiB more than checkpoint.disk_gib" in capsys.readouterr().out
    assert store.newest() == folder / "step_000007"


def test_a_file_that_has_two_names_in_a_run_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_bytes(bytes(100))
    (tmp_path / "other").write_bytes(bytes(10))
    (tmp_path / "link").hardlink_to(tmp_path / "one" / "file")
    assert size_of(tmp_path) == 110


def test_a_run_hands_its_limits_on_to_its_store(tmp_path: Path) -> None:
    config = Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
        evaluation={"data": tmp_path / "eval.jsonl"},
        stages=[{"method": "compress", "steps": 4, "clip_len": 8}],
        checkpoint={"disk_gib": 0.5, "keep_last": 3, "keep_every": 6},
    )
    assert open_store(config).retention == Retention(3, 6, 2**29)


def test_steps_that_a_resume_has_passed_over_push_out_none_that_is_whole(tmp_path: Path, state: TensorState) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for number in (1, 2, 3):
        store.save(number, state, {}, is_stage_end=True)
    for number in (2, 3):  # altered without a change of size
        file = tmp_path / f"step_00000{number}" / "__0_0.distcp"
        data = file.read_bytes()
        file.write_bytes(bytes(len(data)))
        text = (file.parent / "state.json").read_text()
        (file.parent / "state.json").write_text(text.replace("true", "null"))
    assert store.newest() == tmp_path / "step_000001"
    store.save(2, state, {})
    assert store.newest() == tmp_path / "step_000002"


def test_an_old_step_that_cannot_be_removed_fails_no_save(
    tmp_path: Path, state: TensorState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, state, {})

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), "x/.nfs1")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        store.save(2, state, {})
        assert "an old checkpoint cannot be removed: [Errno 39] Directory not empty" in capsys.readouterr().out
        assert store.newest() == tmp_path / "step_000002"
    store.save(3, state, {})
    assert names(store) == ["latest", "step_000003"]


def test_a_disk_without_room_is_told_before_anything_is_written(
    store: CheckpointStore, state: TensorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, state, {})
    written = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(2**20))
    monkeypatch.setattr(store_file, "write_shards", lambda *_: written.append(1))
    size = SMALL[0] * SMALL[1] ** 2 * 4
    with pytest.raises(CheckpointError, match=f"No space left on device: {size:,} bytes .* 1,048,576 are free"):
        store.save(2, state, {})
    assert names(store) == ["latest", "step_000001"] and written == []


def test_a_pointer_that_cannot_be_written_names_what_it_has_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point(tmp_path, BEST, 1)
    write = Path.write_text

    def write_a_part(path: Path, text: str) -> None:
        write(path, text[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", write_a_part)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / BEST}'"):
        point(tmp_path, BEST, 2)
    assert pointed(tmp_path, BEST) == "step_000001" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("loss", [1, None])
def test_a_rank_that_writes_to_another_disk_is_found_out(
    store: CheckpointStore, state: TensorState, loss: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store_file.write_shards

    def elsewhere(staged: Any, folder: Path, step: int) -> Any:
        written = write(staged, folder, step)
        file = folder / next(iter(staged.files))
        file.write_bytes(file.read_bytes()[:-loss]) if loss else file.unlink()
        return written

    monkeypatch.setattr(store_file, "write_shards", elsewhere)
    with pytest.raises(CheckpointError, match=r"__0_0.distcp is not what its rank has written; all hosts must share"):
        store.save(1, state, {})
    assert store.newest() is None


@pytest.mark.parametrize("place", [place for place in SAVE_POINTS if place not in ("checkpoint.pruning",)])
def test_a_save_that_fails_anywhere_leaves_a_whole_step(
    store: CheckpointStore, state: TensorState, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, state, {})
    monkeypatch.setenv(VARIABLE, f"{place}@2=EIO")
    with pytest.raises(CheckpointError, match="Input/output error") as error:
        store.save(2, state, {})
    assert "\n" not in str(error.value)
    monkeypatch.setenv(VARIABLE, "")
    newest = store.newest()
    assert newest is not None and read_state(newest)["step"] == (
        2 if SAVE_POINTS.index(place) >= SAVE_POINTS.index("checkpoint.after_rename") else 1
    )
    assert not list(store.folder.glob("*.tmp"))
    store.save(3, state, {})
    assert store.newest() == store.folder / "step_000003"


@pytest.mark.timeout(HANG_LIMIT_S)
def test_a_killed_save_resumes_from_a_whole_step_and_ends_bitwise_equal(tmp_path: Path, base_model: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    train(CheckpointStore(undisturbed, keep=1), TensorState(base_model, *SMALL), FEW_STEPS, undisturbed / END)
    # the fourth step is the first that removes another one: the second ends a stage
    faults = [f"{way}{place}@4" for way in ("", "async ") for place in SAVE_POINTS]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=killed_at, args=(faults, tmp_path, base_model))
    process.start()
    process.join(HANG_LIMIT_S)
    assert process.exitcode == 0
    first_after = SAVE_POINTS.index("checkpoint.after_rename")
    for number, fault in enumerate(faults):
        run = tmp_path / str(number)
        step = 4 if number % len(SAVE_POINTS) >= first_after else 3
        assert (run / "found").read_text() == str(run / "checkpoints" / f"step_00000{step}"), fault
        assert (run / END).read_text() == (undisturbed / END).read_text(), fault
        assert not list((run / "checkpoints").glob("*.tmp")) or step == 4, fault


def test_an_asynchronous_save_writes_what_the_state_was(
    tmp_path: Path, state: TensorState, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, write = threading.Event(), store_file.write_shards

    def wait(*arguments: Any) -> Any:
        assert go.wait(HANG_LIMIT_S)
        return write(*arguments)

    monkeypatch.setattr(store_file, "write_shards", wait)
    store = CheckpointStore(tmp_path, keep=2, asynchronous=True)
    state.step(1)
    before = state.digest()
    assert store.save(1, state, {}) == []
    state.step(2)  # while nothing is written yet
    assert store.settle(wait=False) == [] and store.newest() is None
    go.set()
    (outcome,) = store.settle()
    assert (outcome.step, outcome.problem) == (1, None) and store.settle() == []
    again = TensorState(base_model, *SMALL)
    load(tmp_path / "step_000001", again)
    assert again.digest() == before != state.digest()


def test_at_most_one_save_is_in_flight_and_the_last_is_waited_for(
    tmp_path: Path, state: TensorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, write = [0], [0], store_file.write_shards

    def count(*arguments: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        try:
            return write(*arguments)
        finally:
            running[0] -= 1

    monkeypatch.setattr(store_file, "write_shards", count)
    store = CheckpointStore(tmp_path, keep=3, asynchronous=True)
    ended = [outcome.step for number in (1, 2, 3) for outcome in store.save(number, state, {})]
    assert ended == [1, 2] and most == [1]
    store.close()
    assert store.newest() == tmp_path / "step_000003"


def test_a_crash_of_the_writing_thread_is_a_failed_save(
    tmp_path: Path, state: TensorState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path, keep=2, asynchronous=True)
    store.save(1, state, {})
    store.settle()

    def crash(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(store_file, "write_shards", crash)
    for end in (lambda: store.save(3, state, {}), store.settle):
        store.save(2, state, {})
        with pytest.raises(CheckpointError, match="ZeroDivisionError: oh"):
            end()
    store.save(2, state, {})
    store.close()
    assert "checkpoint 2 is not written: " in capsys.readouterr().out
    assert names(store) == ["latest", "step_000001"]


@pytest.mark.timeout(HANG_LIMIT_S)
def test_a_save_that_fails_on_one_of_two_ranks_fails_on_both(tmp_path: Path, base_model: Path) -> None:
    with ExitStack() as stack:
        disk = None
        with suppress(PermissionError):  # root alone has true disks; tests/faults/test_disks.py says so
            disk = stack.enter_context(tiny_disk(tmp_path / "disk"))
        run_on_gloo(refused_on_one_rank, 2, tmp_path, base_model, disk)
