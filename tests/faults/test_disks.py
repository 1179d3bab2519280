"""Disks that are full, or read-only, in earnest: one clear line, and what was whole stays."""

import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egrc_mega.checkpoint import commit
from egrc_mega.checkpoint.pointers import LATEST
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.errors import CheckpointError, StorageError, storage_error
from egrc_mega.observe.events import EventLog, read_events
from egrc_mega.observe.rollouts import RolloutLog, stored_steps
from egrc_mega.observe.run_log import RunLog
from egrc_mega.testing import forked
from egrc_mega.testing.checkpoint_worker import SMALL, TensorState
from egrc_mega.testing.disks import PAGE_BYTES, leave_free, set_read_only, tiny_disk
from egrc_mega.testing.rollouts import make_stored_group

ROOM_FOR_ALL = -(2**40)
"""Spare bytes with which every disk seems to have room, as one that another process is about to fill."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """One megabyte."""
    try:
        with tiny_disk(tmp_path / "disk") as folder:
            yield folder
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.fixture
def state(base_model: Path) -> TensorState:
    return TensorState(base_model, *SMALL)


@pytest.fixture
def store(disk: Path, state: TensorState, world_of_one: None, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    """With one whole step."""
    store = CheckpointStore(disk / "checkpoints", keep=2)
    monkeypatch.setattr(commit, "SPARE_BYTES", 0)
    store.save(1, state, {})
    return store


def content(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refusal(store: CheckpointStore, state: TensorState) -> str | None:
    """What a save of the second step says, in one line; None when it is committed. The first one stays as it is."""
    before = content(store.folder / "step_000001")
    problem = None
    try:
        store.save(2, state, {})
    except CheckpointError as error:
        problem = str(error)
        assert "\n" not in problem
    assert content(store.folder / "step_000001") == before
    assert not list(store.folder.glob("*.tmp"))
    # once it has its name it is whole, even where the disk has no room for the pointer to it
    second = store.folder / "step_000002"
    assert store.newest() == (second if second.exists() else store.folder / "step_000001")
    assert second.exists() == (problem is None or problem_of_the_pointer(store) in problem)
    return problem


def problem_of_the_pointer(store: CheckpointStore) -> str:
    return f"No space left on device ({store.folder / LATEST})"


def test_a_full_disk_is_told_before_a_save_begins(disk: Path, store: CheckpointStore, state: TensorState) -> None:
    leave_free(disk, 0)
    assert "No space left on device: 300 bytes are to be written, 0 are free" in str(refusal(store, state))


def test_a_disk_that_fills_up_at_any_page_of_a_save_leaves_the_step_before(
    disk: Path, store: CheckpointStore, state: TensorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "SPARE_BYTES", ROOM_FOR_ALL)
    told = []
    while leave_free(disk, len(told) * PAGE_BYTES) and (problem := refusal(store, state)):
        assert "step_000002.tmp cannot be written by rank 0: No space left on device" in problem
        told.append(problem)
        shutil.rmtree(store.folder / "step_000002", ignore_errors=True)
    assert len(told) > 10


def test_a_read_only_disk_leaves_the_step_before_and_a_later_save_goes_well(
    disk: Path, store: CheckpointStore, state: TensorState
) -> None:
    set_read_only(disk)
    assert "step_000002.tmp cannot be written by rank 0: Read-only file system" in str(refusal(store, state))
    set_read_only(disk, False)
    assert refusal(store, state) is None


def test_a_log_on_a_full_disk_costs_lines_and_is_told_once(disk: Path) -> None:
    said: list[str] = []
    log = RunLog(disk / "run.log", said.append)
    log.write("before")
    filler = leave_free(disk, 0)
    for number in range(PAGE_BYTES // 40):
        log.write(f"line {number} of many")
    assert said == [f"{disk / 'run.log'}: No space left on device; lines are lost from it, and the run goes on"]
    filler.unlink()
    log.write("after")
    leave_free(disk, 0)
    log.write("x" * 2 * PAGE_BYTES)
    assert len(said) == 2
    log.close()
    lines = (disk / "run.log").read_text().splitlines()
    assert lines[0].endswith(" before") and len([line for line in lines if line.endswith(" after")]) == 1
    assert all(line[:4].isdigit() for line in lines)


def test_metrics_on_a_full_disk_are_one_error_that_names_the_file_and_lose_no_earlier_event(disk: Path) -> None:
    path = disk / "metrics.jsonl"
    with EventLog(path) as log:
        log.write("run", seed=1)
        filler = leave_free(disk, 0)
        with pytest.raises(OSError, match="No space left") as error:
            log.write("step", step=1, text="x" * 2 * PAGE_BYTES)
        said = storage_error(error.value)
        assert f"{path}: No space left on device" in str(said) and said.exit_code == StorageError.exit_code
        filler.unlink()
        log.write("step", step=2)
    assert [event.get("step") for event in read_events(path)] == [None, 2]


def test_rollouts_on_a_full_disk_are_one_error_and_leave_no_part(disk: Path) -> None:
    log = RolloutLog(disk / "rollouts", 2**20)
    log.write(1, "compress", (make_stored_group(),))
    log.write(2, "compress", ())
    log._wait()
    leave_free(disk, 0)
    log.write(3, "compress", (make_stored_group(),))
    with pytest.raises(StorageError, match=r"observe.rollouts_gib: .*rollouts cannot be written: .*No space left"):
        log.write(4, "compress", ())
    assert stored_steps(log.folder) == [1, 2] and len(list(log.folder.iterdir())) == 2


def test_a_run_folder_that_cannot_be_written_is_one_line(disk: Path, root: Path, tmp_path: Path) -> None:
    set_read_only(disk)
    (tmp_path / "file").touch()
    for place, reason in ((disk / "run", "Read-only file system"), (tmp_path / "file", "Not a directory")):
        command = [
            sys.executable,
            "-P",
            "-m",
            "egrc_mega.cli.main",
            "train",
            "-c",
            str(root / "configs/quickstart.yaml"),
        ]
        ended = forked.run([*command, "--set", f"run.dir={place}"], cwd=root)
        (line,) = ended.stderr.splitlines()
        assert ended.returncode == StorageError.exit_code
        assert line.startswith(f"egrc: error: {place}") and f": {reason}; see that the path is right" in line


@pytest.mark.usefixtures("world_of_one")
def test_a_limit_on_the_size_of_files_is_one_line(tmp_path: Path, state: TensorState) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    store.save(1, state, {})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert "step_000002.tmp cannot be written by rank 0: File too large" in str(refusal(store, state))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
