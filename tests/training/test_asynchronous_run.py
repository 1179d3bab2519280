"""Whole asynchronous runs whose trainer and servers are killed: every problem has one fate, and nothing is too old."""

import random
import signal
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from egrc_mega.soak.laws import require_no_process
from egrc_mega.testing.runs import events, finish_run, start_run
from egrc_mega.training.fates import RESUMED, problems_of_fates

pytestmark = pytest.mark.long_file

STALENESS = 2
ASYNC = (
    "rollout.mode=async",
    f"rollout.max_staleness={STALENESS}",
    "rollout.num_servers=2",
    "rollout.max_restarts=100",
    "evaluation.num_problems=1",
    "evaluation.temperatures=[1.0]",
    "evaluation.max_new_tokens=24",
)
WAIT_S = 240
B = 4


def stages(steps: int) -> list[dict[str, Any]]:
    common = {"clip_len": 48, "steps": steps, "optim": {"lr": 1e-4}, "loss": {"tis_cap": 2}}
    rollout = {"n": 4, "temperature": 1.0, "max_new_tokens": 72}
    # groups that teach nothing are dropped, so that there is every fate
    dropping = rollout | {"drop_groups": "all_right_or_wrong"}
    return [common | {"method": "compress", "rollout": rollout}, common | {"method": "explore", "rollout": dropping}]


def kill_server(run_dir: Path, number: int) -> None:
    """The process that listens where the run's server of this number does; wherever it was forked."""
    url = events(run_dir, "processes")[-1]["servers"][number]
    port = int(url.rpartition(":")[2])
    places = [c for c in psutil.net_connections("tcp4") if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    for place in places:  # none where it has just been killed and is not back yet
        assert place.pid is not None
        psutil.Process(place.pid).kill()


def wait_until(run: "Popen[str]", holds: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.01)


def require_bound(run_dir: Path) -> None:
    """No group that was ever trained had older tokens."""
    for step in events(run_dir, "step"):
        assert step["groups"] == B and step["version_lag_max"] <= STALENESS
        assert sum(step["groups_by_staleness"]) == B


def all_of(run_dir: Path, fate: str) -> list[int]:
    newest = {event["step"]: event for event in events(run_dir, "fates")}
    return [place for event in newest.values() for place in event[fate]]


def test_a_run_that_loses_a_server_and_is_killed_and_resumed_trains_every_problem_once(
    root: Path, tmp_path: Path
) -> None:
    run_dir, overrides = tmp_path / "run", (*ASYNC, "sync.transport=distributed")
    faults = "train.before_update@2=SIGSTOP,train.before_commit@5"
    run = start_run(root, run_dir, stages=stages(3), overrides=overrides, faults=faults)
    wait_until(run, lambda: psutil.Process(run.pid).status() == psutil.STATUS_STOPPED)
    kill_server(run_dir, 1)
    run.send_signal(signal.SIGCONT)
    finish_run(run, expected=-signal.SIGKILL)
    assert problems_of_fates(run_dir) == []
    finish_run(start_run(root, run_dir, "--resume", stages=stages(3), overrides=overrides))
    assert problems_of_fates(run_dir) == []
    require_bound(run_dir)
    steps = events(run_dir, "step")
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 5, 6]
    assert max(step["server_restarts"] for step in steps[:5]) == 1
    assert max(step["version_lag_max"] for step in steps) > 1, "or the run was not asynchronous"
    assert len(all_of(run_dir, "trained")) == 6 * B and all_of(run_dir, "dropped")
    again = events(run_dir, "fates")[-2]["requeued"]
    assert again and {one["reason"] for one in again} == {RESUMED}


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_twenty_random_kills_of_trainer_and_servers_lose_no_problem_and_train_none_twice(
    root: Path, tmp_path: Path
) -> None:
    run_dir, chance, num_kills, num_trainers = tmp_path / "run", random.Random(11), 0, 0
    extra: tuple[str, ...] = ()
    length = stages(30)
    while num_kills < 20:
        before = len(events(run_dir, "step")) if extra else 0
        run = start_run(root, run_dir, *extra, stages=length, overrides=ASYNC)
        for _ in range(chance.randint(0, 2)):
            before += chance.randint(1, 2)
            wait_until(run, lambda most=before: len(events_or_none(run_dir)) >= most)
            time.sleep(chance.random())  # anywhere in a step
            kill_server(run_dir, chance.randrange(2))
            num_kills += 1
        before += chance.randint(1, 3)
        wait_until(run, lambda most=before: len(events_or_none(run_dir)) >= most)
        time.sleep(chance.random())
        family = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.communicate(timeout=60)
        require_no_process(family)
        num_kills, num_trainers = num_kills + 1, num_trainers + 1
        assert problems_of_fates(run_dir) == []
        require_bound(run_dir)
        extra = ("--resume",)
    finish_run(start_run(root, run_dir, "--resume", stages=length, overrides=ASYNC), timeout_s=1200)
    assert problems_of_fates(run_dir) == []
    require_bound(run_dir)
    assert len(all_of(run_dir, "trained")) == 60 * B
    assert len(events(run_dir, "resume")) == num_trainers >= 5


def events_or_none(run_dir: Path) -> list[dict[str, Any]]:
    return events(run_dir, "step") if (run_dir / "metrics.jsonl").exists() else []
