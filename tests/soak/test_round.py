"""What a round does to processes and checkpoints, on stand-ins; a whole one is in test_soak.py."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from egrc_mega.checkpoint.agreement import Ranks
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.checkpoint.verification import problem_of
from egrc_mega.soak import round as round_module
from egrc_mega.soak.laws import BrokenLaw
from egrc_mega.soak.round import Round
from egrc_mega.soak.schedule import Fault, Plan
from egrc_mega.testing.checkpoint_worker import TensorState


def make_round(folder: Path, *faults: Fault) -> Round:
    made = Round(Plan(1, "own", False, False, faults), folder, folder / "config.yaml", folder / "undisturbed", None, [])
    made.marks.mkdir()
    made.scratch.mkdir()
    return made


def test_what_pauses_goes_on_after_a_while_and_what_is_stopped_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_module, "PAUSE_S", 0.0)
    pause, stop, kill = (Fault(f"{verb} server", 2) for verb in ("pause", "stop", "kill"))
    made = make_round(tmp_path, pause, stop, kill)
    with subprocess.Popen(["sleep", "1000"]) as own:
        process = psutil.Process(own.pid)
        assert made._strike(pause, process)
        wait_for(process, psutil.STATUS_STOPPED)
        made._resume_paused()
        wait_for(process, psutil.STATUS_SLEEPING)
        assert made._strike(pause, process) and made._strike(stop, process)
        made._resume_paused()
        wait_for(process, psutil.STATUS_STOPPED)
        assert made._strike(kill, process)
    assert own.returncode == -9
    assert not made._strike(kill, process)


def wait_for(process: psutil.Process, status: str) -> None:
    deadline = time.monotonic() + 60
    while process.status() != status:
        assert time.monotonic() < deadline, process.status()
        time.sleep(0.01)


def test_a_rank_that_has_paused_at_a_point_is_found_by_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_module, "PAUSE_S", 0.0)
    fault = Fault("pause rank", 3, 1, "policy.forward")
    made = make_round(tmp_path, fault)
    with subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 19)"]) as own:
        wait_for(psutil.Process(own.pid), psutil.STATUS_STOPPED)
        made._resume_paused()
        assert made.outcome.struck == []
        (made.marks / "policy.forward@3=SIGSTOP#1").write_text(str(own.pid))
        made._resume_paused()
        assert made.outcome.struck == [fault]
    assert own.returncode == 0


@pytest.fixture
def of_steps(world_of_one: None, base_model: Path, tmp_path: Path) -> tuple[Round, CheckpointStore, TensorState]:
    """A round whose run has committed steps 2 and 4."""
    made = make_round(tmp_path)
    store, state = CheckpointStore(made.run_dir / "checkpoints", keep=2), TensorState(base_model, 1, 4)
    for step in (2, 4):
        store.save(step, state, {})
    return made, store, state


@pytest.mark.parametrize("number", [0, 17, 123456, 999999])
def test_a_flipped_bit_is_a_damage_that_is_forgiven_until_the_step_is_written_anew(
    number: int, of_steps: tuple[Round, CheckpointStore, TensorState]
) -> None:
    made, store, state = of_steps
    made._see_to_steps()
    assert made._committed == 4
    made._flip(Fault("flip byte", 5, detail=str(number)))
    newest = store.folder / "step_000004"
    assert "differs from the manifest" in str(problem_of(newest, Ranks(60)))
    assert made._committed == 2
    made._see_to_steps()
    made._flip(Fault("flip byte", 6, detail=str(number)))
    assert made._committed == 0 and len(made.outcome.struck) == 2
    made._see_to_steps()
    store.save(4, state, {})
    made._see_to_steps()
    assert made._committed == 4
    (newest / "state.json").write_text("{}")
    with pytest.raises(BrokenLaw, match=r"^law 4"):
        made._see_to_steps()


def test_a_killed_supervisor_may_leave_its_scratch_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_module.laws.require_no_new_file, "__defaults__", (0.0,))
    made = make_round(tmp_path)
    before = round_module.laws.listing([round_module.SHARED_MEMORY])
    (made.scratch / "egrc-attempt-x").mkdir()
    with pytest.raises(BrokenLaw, match=r"^law 2 is broken: these files are left: .*egrc-attempt-x$"):
        made._see_to_files(before, was_killed=False)
    made._see_to_files(before, was_killed=True)
    (made.scratch / "egrc-launch-x").mkdir()
    with pytest.raises(BrokenLaw, match=r"^law 2"):
        made._see_to_files(before, was_killed=True)


@pytest.mark.parametrize(
    ("kind", "code", "expected"), [(None, 5, 0), ("terminate", 0, 0), ("terminate", 1, 75), ("flip byte", 0, -9)]
)
def test_each_end_has_its_exit_code(kind: str | None, code: int, expected: int, tmp_path: Path) -> None:
    assert make_round(tmp_path)._expected(Fault(kind, 2) if kind else None, code) == expected
