"""A trainer killed while it writes a checkpoint: nothing of it stays, and the next one goes on at once.

Not covered: a machine that loses power, where the disk may lose what it has promised to hold.
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from egrc_mega.manifest import damages
from egrc_mega.run_folder import is_held
from egrc_mega.testing.checkpoint_worker import END, NUM_STEPS, STATE_BYTES, train_large_state
from egrc_mega.testing.gloo import PRELOADED
from egrc_mega.testing.runs import bytes_being_written

START_TIMEOUT_S = 120.0
GONE_WITHIN_S = 10.0


def start_trainer(run_dir: Path, companions: Path, asynchronous: bool = False) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=train_large_state, args=(run_dir, companions, asynchronous))
    process.start()
    return process


def session_of(leader: int) -> list[int]:
    """Living processes of the leader's session, itself left out."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.pid != leader and process.status() != "zombie":
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def kill_inside_a_write(process: BaseProcess, run_dir: Path, started: float, moment: int) -> bool:
    """Kill the trainer once `moment` bytes of a step are there; False when it has finished first."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while bytes_being_written(run_dir, started) < moment:
        assert time.monotonic() < deadline, "the trainer wrote no checkpoint"
        if not process.is_alive():
            assert process.exitcode == 0
            return False
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(GONE_WITHIN_S)
    return True


def assert_nothing_is_left(leader: int, run_dir: Path) -> None:
    deadline = time.monotonic() + GONE_WITHIN_S
    while (left := session_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], [psutil.Process(pid).cmdline() for pid in left]
    assert not is_held(run_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, base_model: Path) -> str:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start_trainer(run_dir, base_model)
    process.join(START_TIMEOUT_S)
    assert process.exitcode == 0
    return (run_dir / END).read_text()


@pytest.fixture
def num_kills(request: pytest.FixtureRequest) -> int:
    return 20 if request.config.getoption("--full") else 3


def test_a_trainer_killed_inside_a_checkpoint_leaves_nothing_and_resumes_bitwise(
    undisturbed: str, base_model: Path, tmp_path: Path, num_kills: int
) -> None:
    run_dir, chance = tmp_path / "run", random.Random(num_kills)
    num_torn = 0
    while num_torn < num_kills:
        if (run_dir / END).exists():  # the run came through: again from the start
            shutil.rmtree(run_dir)
        started = time.time()
        process = start_trainer(run_dir, base_model, asynchronous=num_torn % 2 == 1)
        was_killed = kill_inside_a_write(process, run_dir, started, chance.randrange(1, STATE_BYTES))
        if was_killed:
            assert_nothing_is_left(process.pid or 0, run_dir)
        # killed after its commit it was late: such a moment counts for nothing
        num_torn += was_killed and any(run_dir.glob("checkpoints/*.tmp"))
    process = start_trainer(run_dir, base_model)
    process.join(START_TIMEOUT_S)
    assert process.exitcode == 0
    assert (run_dir / END).read_text() == undisturbed
    steps = sorted((run_dir / "checkpoints").glob("step_*"))
    # the end of a stage, and the newest two
    assert [step.name for step in steps] == [f"step_{n:06d}" for n in (2, NUM_STEPS - 1, NUM_STEPS)]
    assert [damages(step) for step in steps] == [[], [], []]
