"""Alarms of a run: an event and a line each, and with `health.stop` a checkpoint, one message and an exit code."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.errors import HealthError
from egrc_mega.stages.health import Alarm, Health
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.training import run as run_module

pytestmark = pytest.mark.usefixtures("world_of_one")


def run_of(tmp_path: Path, *, resume: bool = False, **health: Any) -> FakeRun:
    config = Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
        evaluation={"data": tmp_path / "eval.jsonl"},
        stages=[{"method": "compress", "steps": 6, "clip_len": 8}],
        checkpoint={"every": 10},
        health=health,
    )
    return FakeRun(config, Notes(), resume=resume)


@pytest.fixture(autouse=True)
def ill_at_step_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(health: Health, _section: Any, record: Any, bound: float) -> tuple[Health, list[Alarm]]:
        assert bound == 1e-4
        ill = record["step"] == 3
        return health.model_copy(update={"truncated": record["step"]}), [Alarm(name="truncated", text="ill")] * ill

    monkeypatch.setattr(run_module, "watch_health", watch)
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> Notes:
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    train_module.train(run.config, resume=run.resume)
    return run.notes


def test_an_alarm_is_an_event_and_a_line_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = go(monkeypatch, run_of(tmp_path, stop=["no_update"]))
    assert notes.of("alarm") == [({"step": 3, "name": "truncated", "text": "ill"},)]
    assert ("alarm (truncated): ill",) in notes.of("line")
    assert notes.of("export") == [(6, 6.0)]


def test_an_alarm_that_is_to_stop_the_run_ends_it_after_a_checkpoint_from_which_a_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, stop=["truncated"])
    with pytest.raises(
        HealthError, match=r"health\.stop ends the run after step 3, which is committed: ill; --resume"
    ) as e:
        go(monkeypatch, run)
    assert e.value.exit_code == 12
    assert run.notes.of("save") == [(3, False)]
    assert run.notes.of("stop") == [({"step": 3, "reason": "ill"},)]
    assert run.notes.of("export") == []
    again = run_of(tmp_path, resume=True, stop=["truncated"])
    again.fake_store.states = dict(run.fake_store.states)
    assert go(monkeypatch, again).of("export") == [(6, 6.0)]
    # what the alarms have seen is a part of the place
    assert again.fake_store.states[3]["health"]["truncated"] == 3
