"""Each of the five laws fails where it is broken, says which one it is, and holds where it is kept."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.soak.laws import (
    BrokenLaw,
    listing,
    require_cause,
    require_end,
    require_no_new_file,
    require_no_process,
    require_same_weights,
    require_whole_step,
)
from egrc_mega.testing.checkpoint_worker import TensorState

SLEEP = ["sleep", "1000"]


def test_who_ends_in_time_tells_what_it_has_said_and_who_does_not_is_killed() -> None:
    said = subprocess.Popen([sys.executable, "-c", "print('done')"], stdout=subprocess.PIPE, text=True)
    assert require_end(said, 60) == "done\n"
    sleeping = subprocess.Popen(SLEEP)
    with pytest.raises(BrokenLaw, match=rf"^law 1 is broken: process {sleeping.pid} has not ended within 0.05 s"):
        require_end(sleeping, 0.05)
    assert sleeping.returncode == -9


def test_a_process_that_is_left_is_named_and_killed_and_a_dead_one_that_nobody_collects_is_none() -> None:
    with subprocess.Popen(SLEEP) as left, subprocess.Popen(["true"]) as dead:
        family = [psutil.Process(dead.pid), psutil.Process(left.pid)]
        require_no_process(family[:1])
        with pytest.raises(BrokenLaw, match=rf"^law 2 is broken: .*left: {left.pid} \(sleeping\): sleep 1000$"):
            require_no_process(family, 0.05)
    assert left.returncode == -9


def test_a_file_that_is_left_is_named_unless_a_living_process_has_it_or_it_was_there_before(tmp_path: Path) -> None:
    folders = [tmp_path, tmp_path / "nothing"]
    (tmp_path / "old").touch()
    before = listing(folders)
    require_no_new_file(folders, before)
    with (tmp_path / "held").open("w"):
        require_no_new_file(folders, before, 0)
    with pytest.raises(BrokenLaw, match=rf"^law 2 is broken: these files are left: {tmp_path}/held$"):
        require_no_new_file(folders, before, 0)


@pytest.mark.parametrize(
    ("code", "cause", "complaint"),
    [
        (0, "disk is full", None),
        (1, "disk is full", "the exit code is 1, not 0"),
        (0, "rank 1", r"said of \['rank 1'\]"),
    ],
)
def test_an_exit_code_and_each_cause_must_be_as_they_should(code: int, cause: str, complaint: str | None) -> None:
    said = "egrc: begins\negrc: the disk is full"
    if complaint is None:
        require_cause(code, said, causes=["^egrc: begins$", cause])
        return
    with pytest.raises(BrokenLaw, match=rf"^law 3 is broken: .*{complaint}; it has said last:\n  egrc: begins"):
        require_cause(code, said, causes=["begins", cause])


@pytest.fixture
def run_dir(world_of_one: None, base_model: Path, tmp_path: Path) -> Path:
    """Of a run that has committed steps 2 and 4."""
    store, state = CheckpointStore(tmp_path / "checkpoints", keep=2), TensorState(base_model, 1, 4)
    for step in (2, 4):
        store.save(step, state, {})
    return tmp_path


def test_a_newest_step_that_is_damaged_or_lost_is_a_broken_law(run_dir: Path) -> None:
    assert require_whole_step(run_dir, at_least=4) == 4
    with pytest.raises(BrokenLaw, match=r"^law 4 is broken: step 6 was committed, and the newest in .* is 4$"):
        require_whole_step(run_dir, at_least=6)
    (run_dir / "checkpoints/step_000004/state.json").write_text("{}")
    with pytest.raises(BrokenLaw, match=r"^law 4 is broken: .*step_000004: state.json has 2 bytes"):
        require_whole_step(run_dir, at_least=2)


def test_where_no_step_was_committed_there_need_be_none(tmp_path: Path) -> None:
    assert require_whole_step(tmp_path, at_least=0) == 0
    with pytest.raises(BrokenLaw, match=r"^law 4"):
        require_whole_step(tmp_path, at_least=1)


def test_one_bit_of_one_weight_is_a_broken_law(tmp_path: Path) -> None:
    for name, value in {"a": 1.0, "b": 1.0, "c": 1.0 + 2**-23}.items():
        (tmp_path / name / "export").mkdir(parents=True)
        tensors = {"w": torch.tensor([value]), "v": torch.zeros(2)}
        save_file(tensors, tmp_path / name / "export" / "model.safetensors")
    require_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(BrokenLaw, match=r"^law 5 is broken: .*/c differs from .*/a in \['w'\]$"):
        require_same_weights(tmp_path / "c", tmp_path / "a")
    save_file({"w": torch.ones(1)}, tmp_path / "c" / "export" / "model.safetensors")
    with pytest.raises(BrokenLaw, match=r"^law 5 is broken: .*other tensors: \['v'\]$"):
        require_same_weights(tmp_path / "c", tmp_path / "a")
