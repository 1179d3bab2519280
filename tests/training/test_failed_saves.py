"""What a run does with saves that end later than they began, and with those that fail though it goes on."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.errors import EgrcError, HealthError, Stopped
from egrc_mega.run_folder import STOP
from egrc_mega.stages.health import Alarm
from egrc_mega.testing import fake_run
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.training import run as run_module

pytestmark = pytest.mark.usefixtures("world_of_one")

ACCURACIES = {1: 0.5, 2: 0.9, 3: 0.6, 4: 0.1}


def run_of(tmp_path: Path, *full_at: int, every: int = 10, **sections: Any) -> FakeRun:
    """Four steps, each evaluated; `full_at` are those that cannot be written."""
    config = Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
        evaluation={"data": tmp_path / "eval.jsonl", "every": 1} | sections.pop("evaluation", {}),
        stages=[{"method": "compress", "steps": 4, "clip_len": 8}],
        checkpoint={"every": every},
        **sections,
    )
    run = FakeRun(config, Notes())
    run.notes.accuracies = ACCURACIES  # type: ignore[misc]
    run.fake_store.full_at = set(full_at)
    return run


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> Notes:
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    train_module.train(run.config, resume=run.resume)
    return run.notes


def refused(monkeypatch: pytest.MonkeyPatch, run: FakeRun, kind: type[EgrcError]) -> str:
    with pytest.raises(kind) as found:
        go(monkeypatch, run)
    return str(found.value)


def test_a_save_is_known_to_be_committed_before_best_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = go(monkeypatch, run_of(tmp_path, every=1, evaluation={"best": {}}))
    order = [note for note in notes if note[0] in ("save", "committed", "best")]
    kinds = [(note[0], note[1]["step"] if note[0] == "committed" else note[1]) for note in order]
    # the save of the third step, which nothing waits for, is known when the fourth begins
    assert kinds == [
        *(("save", 1), ("committed", 1), ("best", 1)),
        *(("save", 2), ("committed", 2), ("best", 2)),
        *(("save", 3), ("save", 4), ("committed", 3), ("committed", 4)),
    ]


def test_the_best_step_is_the_best_of_those_that_could_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, 2, evaluation={"best": {}})
    notes = go(monkeypatch, run)
    assert notes.of("best") == [(1, 0.5), (3, 0.6)]
    assert run.state.best.score and run.state.best.score.step == 3
    [(facts,)] = notes.of("checkpoint_failed")
    assert facts["step"] == 2 and facts["problem"] == "No space left on device"
    assert any(
        "checkpoint of step 2 is not written, the run goes on: No space left" in line for (line,) in notes.of("line")
    )


def test_a_run_that_ends_tries_its_last_step_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = go(monkeypatch, run_of(tmp_path, 4))
    assert notes.of("save") == [(4, True), (4, True)]
    assert notes.of("export") == [(4, 4.0)]


@pytest.mark.parametrize(
    ("full_at", "words"),
    [
        ((), "after step 3, which is committed: ill; --resume"),
        ((3,), "after step 3; step 2 is committed: ill; --resume"),
        ((2, 3), "after step 3; no step is committed: ill; --resume"),
    ],
)
def test_a_run_that_ends_by_an_alarm_says_what_is_committed(
    full_at: tuple[int, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(health: Any, _section: Any, record: Any, _bound: float) -> Any:
        return health, [Alarm(name="truncated", text="ill")] * (record["step"] == 3)

    monkeypatch.setattr(run_module, "watch_health", watch)
    run = run_of(tmp_path, *full_at, every=2, health={"stop": ["truncated"]})
    assert words in refused(monkeypatch, run, HealthError)


@pytest.mark.parametrize(
    ("full_at", "words"), [((), "after step 1, which is committed;"), ((1,), "after step 1; no step is committed;")]
)
def test_a_run_that_is_stopped_waits_for_its_save_and_says_what_is_committed(
    full_at: tuple[int, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, *full_at, every=1)
    stop = SimpleNamespace(wanted=True, may_give_up=nullcontext)
    monkeypatch.setattr(fake_run, "StopSignal", lambda *_, **__: stop)
    assert words in refused(monkeypatch, run, Stopped)
    assert run.fake_store.in_flight == []


def test_a_run_whose_folder_asks_it_to_stop_ends_after_the_step_under_way_and_leaves_that_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    (tmp_path / "run").mkdir()

    def ask(_health: Any, _section: Any, record: Any, _bound: float) -> Any:
        if record["step"] == 2:
            (tmp_path / "run" / STOP).touch()
        return _health, []

    monkeypatch.setattr(run_module, "watch_health", ask)
    place = "stopped by egrc stop after step 2, which is committed"
    assert refused(monkeypatch, run, Stopped) == f"{place}; go on with --resume"
    assert list(run.fake_store.states) == [2]
    assert run.notes.of("stopped") == [({"step": 2, "text": place},)]
