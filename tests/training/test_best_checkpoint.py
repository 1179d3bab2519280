"""A run keeps the checkpoint of its best evaluation, says which it is, and ends when its evaluations say so."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.check import problems
from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.sections.run import CheckpointSection
from egrc_mega.stages.state import RunState
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.training import run as run_module

pytestmark = pytest.mark.usefixtures("world_of_one")

ACCURACIES = {0: 0.99, 1: 0.5, 2: 0.7, 3: 0.6, 4: 0.8, 5: 0.8, 6: 0.7, 7: 0.1, 8: 0.2}


def config_of(tmp_path: Path, **evaluation: Any) -> Config:
    stages = [{"method": "compress", "label": name, "steps": 4, "clip_len": 8} for name in ("a", "b")]
    return Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
        evaluation={"data": tmp_path / "eval.jsonl", "every": 1, "best": {}} | evaluation,
        stages=stages,
        checkpoint={"every": 3},
    )


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> Notes:
    """The true loop over a run of fakes."""
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    run.notes.accuracies = ACCURACIES  # type: ignore[misc]
    train_module.train(run.config, resume=run.resume)
    return run.notes


def test_the_best_evaluations_step_is_committed_once_and_pointed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = go(monkeypatch, FakeRun(config_of(tmp_path), Notes()))
    assert notes.of("best") == [(1, 0.5), (2, 0.7), (4, 0.8)]
    # 3 and 6 are due, 4 and 8 end a stage; 1 and 2 are there for their evaluations
    assert notes.of("save") == [(1, False), (2, False), (3, False), (4, True), (6, False), (8, True)]
    order = [note[:2] for note in notes if note[0] in ("save", "best", "point")]
    assert order[order.index(("save", 2)) - 1 :][:3] == [("point", "a"), ("save", 2), ("best", 2)]


@pytest.mark.parametrize(
    ("stop", "last", "words"),
    [({"patience": 2}, 6, "2 evaluations in a row"), ({"target": 0.65}, 2, "has reached evaluation.stop.target")],
)
def test_a_run_that_its_evaluations_end_ends_as_a_finished_one_does(
    stop: dict[str, Any], last: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun(config_of(tmp_path, stop=stop), Notes())
    notes = go(monkeypatch, run)
    assert len(notes.of("collect")) == last
    [(facts,)] = notes.of("stop")
    assert facts["step"] == last and words in facts["reason"]
    assert notes.of("save")[-1][0] == last and notes.of("export") == [(last, float(last))]
    points = [facts for (facts,) in notes.of("evaluation") if facts["step"] == last]
    # within its stage, and then as the stage's end
    assert [point["within"] for point in points] == [True, False]
    assert any(words in line for (line,) in notes.of("line"))


def test_the_step_at_which_evaluations_end_a_run_is_committed_though_none_is_due_and_it_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, stop={"patience": 1}).model_copy(update={"checkpoint": CheckpointSection(every=100)})
    notes = go(monkeypatch, FakeRun(config, Notes()))
    assert notes.of("stop")[0][0]["step"] == 3
    assert notes.of("save") == [(1, False), (2, False), (3, True)]


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_resume_comes_to_the_same_best_and_the_same_end(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeRun(config_of(tmp_path, stop={"patience": 2}), Notes())
    go(monkeypatch, whole)
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    run = FakeRun(config_of(tmp_path, stop={"patience": 2}), Notes(), resume=True)
    run.fake_store.states = {step: whole.fake_store.states[step]}
    notes = go(monkeypatch, run)
    assert run.state == whole.state
    assert notes.of("best") == [best for best in whole.notes.of("best") if best[0] >= step]
    assert notes.of("export") == whole.notes.of("export")
    assert notes.of("save") == [save for save in whole.notes.of("save") if save[0] > step]


def test_a_run_that_was_ended_goes_on_once_the_rule_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = FakeRun(config_of(tmp_path, stop={"patience": 2}), Notes())
    go(monkeypatch, ended)
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    run = FakeRun(config_of(tmp_path), Notes(), resume=True)
    run.fake_store.states = {6: ended.fake_store.states[6]}
    assert go(monkeypatch, run).of("export") == [(8, 8.0)]
    assert run.state.best.score and run.state.best.score.step == 4


def test_what_is_committed_for_its_evaluation_is_the_place_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun(config_of(tmp_path), Notes())
    go(monkeypatch, run)
    states = {step: RunState.model_validate(state) for step, state in run.fake_store.states.items()}
    assert {step: state.best.score and state.best.score.step for step, state in states.items()} == {
        1: None,
        2: 1,
        3: 2,
        4: 2,
        6: 4,
        8: 4,
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["evaluation.stop={patience: 3}"], "evaluation.stop: given, but no metric"),
        (["evaluation.best={}", "evaluation.stop={}"], "evaluation.stop: neither patience nor target"),
        (["evaluation.best={set: aime24}"], "evaluation.best.set: there is no set 'aime24'"),
        (["evaluation.best={temperature: 0.7}"], "evaluation.best.temperature: 0.7 is none of"),
        (["evaluation.best={metric: pass@4}", "evaluation.n=2"], "evaluation.best.metric: pass@4 needs a power of two"),
        (["evaluation.best={metric: pass@3}", "evaluation.n=4"], "evaluation.best.metric: pass@3 needs a power of two"),
    ],
)
def test_what_cannot_decide_is_refused_by_name(overrides: list[str], expected: str, root: Path) -> None:
    config = load_config(root / "configs/quickstart.yaml", overrides).config
    assert any(str(problem).startswith(expected) for problem in problems(config, 1, 1))
