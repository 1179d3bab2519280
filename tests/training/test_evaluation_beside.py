"""Points that are measured beside training: which, when their numbers decide, and that a resume decides alike."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.errors import Stopped
from egrc_mega.evaluation.records import Subject
from egrc_mega.run_folder import STOP
from egrc_mega.sections.evaluation import SpareSection
from egrc_mega.stages.state import RunState
from egrc_mega.stop_signal import StopSignal
from egrc_mega.testing import fake_run
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.training import run as run_module

pytestmark = pytest.mark.usefixtures("world_of_one")

ACCURACIES = {0: 0.99, 1: 0.5, 2: 0.7, 3: 0.6, 4: 0.8, 5: 0.8, 6: 0.7, 7: 0.1, 8: 0.2}


def config_of(tmp_path: Path, *, max_pending: int = 2, **evaluation: Any) -> Config:
    stages = [{"method": "compress", "label": name, "steps": 4, "clip_len": 8} for name in ("a", "b")]
    own = {"data": tmp_path / "eval.jsonl", "every": 1, "best": {}, "spare": {"max_pending": max_pending}}
    return Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
        evaluation=own | evaluation,
        stages=stages,
        checkpoint={"every": 3},
    )


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> Notes:
    """The true loop over a run of fakes."""
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    run.notes.accuracies = ACCURACIES  # type: ignore[misc]
    train_module.train(run.config, resume=run.resume)
    return run.notes


def resumed(whole: FakeRun, step: int, config: Config) -> FakeRun:
    """A run that goes on from a step of another one."""
    run = FakeRun(config, Notes(), resume=True)
    run.fake_store.states = {number: state for number, state in whole.fake_store.states.items() if number <= step}
    return run


@pytest.mark.parametrize("max_pending", [1, 3])
def test_the_points_are_those_of_an_evaluation_in_between_with_the_same_weights(
    max_pending: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between = go(monkeypatch, FakeRun(config_of(tmp_path, spare=None, every=3), Notes()))
    beside = go(monkeypatch, FakeRun(config_of(tmp_path, max_pending=max_pending, every=3), Notes()))
    assert [point[:3] for point in beside.of("point")] == [point[:3] for point in between.of("point")]
    names = ("label", "ordinal", "step", "within", "accuracy")
    rows = [[[event[name] for name in names] for (event,) in notes.of("evaluation")] for notes in (between, beside)]
    assert rows[0] == rows[1] != []
    # the weights that were kept are those of their step
    assert beside.of("keep") == [(step, float(step)) for step in (0, 3, 4, 6, 8)]


def test_training_goes_on_until_more_points_are_awaited_than_there_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = go(monkeypatch, FakeRun(config_of(tmp_path, every=2), Notes()))
    order = [note[:2] if note[0] != "point" else ("point", note[3]) for note in notes]
    order = [note for note in order if note[0] in ("keep", "collect", "point", "export")]
    # points 0 and 2 are awaited while steps go on; 4 waits for the numbers of 0, 6 for those of 2, the end for all
    assert order == [
        ("keep", 0),
        *(("collect", 0), ("collect", 1), ("keep", 2)),
        *(("collect", 2), ("collect", 3), ("point", 0), ("keep", 4)),
        *(("collect", 4), ("collect", 5), ("point", 2), ("keep", 6)),
        *(("collect", 6), ("collect", 7), ("point", 4), ("keep", 8)),
        *(("point", 6), ("point", 8), ("export", 8)),
    ]


def test_a_point_decides_when_so_many_points_have_come_after_it_and_its_step_stays_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun(config_of(tmp_path), Notes())
    notes = go(monkeypatch, run)
    assert notes.of("best") == [(1, 0.5), (2, 0.7), (4, 0.8)]
    # every point's step is committed: each may be the best
    assert [step for step, _is_end in notes.of("save")] == [1, 2, 3, 4, 5, 6, 7, 8]
    order = [note[:2] for note in notes if note[0] in ("keep", "best", "hold")]
    assert order[: order.index(("best", 1)) + 1] == [
        ("hold", []),
        *(("keep", 0), ("hold", [0])),
        *(("keep", 1), ("hold", [0, 1])),
        *(("hold", [1]), ("keep", 2), ("hold", [1, 2])),
        ("best", 1),
    ]
    assert order[-1] == ("hold", [])
    assert run.state.best.score and run.state.best.score.step == 4 and run.state.awaited == ()
    states = {step: RunState.model_validate(state) for step, state in run.fake_store.states.items()}
    # what is committed is the place before the evaluation, with the points that are awaited there
    assert [point.step for point in states[5].awaited] == [3, 4]
    assert states[5].best.score and states[5].best.score.step == 2


@pytest.mark.parametrize(
    ("stop", "max_pending", "decided_by", "last"),
    [({"patience": 2}, 1, 6, 7), ({"patience": 2}, 2, 6, 8), ({"target": 0.65}, 1, 2, 3), ({"target": 0.65}, 3, 2, 5)],
)
def test_the_step_at_which_late_numbers_end_a_run_follows_from_the_configuration(
    stop: dict[str, Any],
    max_pending: int,
    decided_by: int,
    last: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = FakeRun(config_of(tmp_path, stop=stop, max_pending=max_pending), Notes())
    notes = go(monkeypatch, run)
    assert len(notes.of("collect")) == last and notes.of("export") == [(last, float(last))]
    assert [facts["step"] for (facts,) in notes.of("stop")] == ([] if last == 8 else [last])
    # and no more is sampled for a stage that ends, by whatever rule
    assert len(notes.of("close")) == len(notes.of("switch")) + len(notes.of("stop"))
    # the place where it ends is measured once, as the end of its stage, and is committed
    assert [point[2:] for point in notes.of("begin point")][-1] == (last, False)
    assert notes.of("save")[-1][0] == last
    assert len(notes.of("point")) == last + 1
    assert decided_by <= last


@pytest.mark.parametrize("max_pending", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 4, 5, 6])
def test_a_resume_comes_to_the_same_decisions_at_the_same_steps(
    step: int, max_pending: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, stop={"patience": 2}, max_pending=max_pending)
    whole = FakeRun(config, Notes())
    go(monkeypatch, whole)
    run = resumed(whole, step, config)
    notes = go(monkeypatch, run)
    assert run.state == whole.state and notes.of("export") == whole.notes.of("export")
    known = RunState.model_validate(whole.fake_store.states[step])
    # what was awaited at the commit is begun again, in its order, before anything else; other weights are removed
    awaited = [point.step for point in known.awaited]
    assert [point[2] for point in notes.of("begin point")][: len(awaited)] == awaited
    assert notes.of("keep only") == [(awaited,), ([],)] and ("hold", awaited) == notes[notes.index(("hold", awaited))]
    score = known.best.score.step if known.best.score else 0
    assert notes.of("best") == [best for best in whole.notes.of("best") if best[0] > score]


def test_a_run_that_is_resumed_without_spare_servers_has_the_others_measure_what_was_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeRun(config_of(tmp_path), Notes())
    go(monkeypatch, whole)
    run = resumed(whole, 5, config_of(tmp_path, spare=None))
    notes = go(monkeypatch, run)
    assert notes.of("load") == [(3,), (4,)]
    # before the servers get the present weights
    kinds = [note[0] for note in notes]
    assert kinds.index("load") < kinds.index("publish")
    assert run.state.awaited == () and run.state.best == whole.state.best
    assert [point[2] for point in notes.of("point")] == [3, 4, 5, 6, 7, 8]


def test_what_was_awaited_may_end_a_resumed_run_without_spare_servers_and_its_end_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules: dict[str, Any] = {"every": 2, "stop": {"target": 0.65}}
    whole = FakeRun(config_of(tmp_path, **rules), Notes())
    go(monkeypatch, whole)
    run = resumed(whole, 3, config_of(tmp_path, spare=None, **rules))
    notes = go(monkeypatch, run)
    # step 2 has reached the target; the run had gone on to a step that is no point of its own
    assert notes.of("load") == [(0,), (2,)] and notes.of("collect") == []
    assert [point[:3] for point in notes.of("point")] == [("base", 0, 0), ("a", 1, 2), ("a", 1, 3)]
    assert [facts["within"] for (facts,) in notes.of("evaluation")] == [False, True, False]
    assert notes.of("export") == [(3, 3.0)]


def when_awaited(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]) -> None:
    """Have something happen, once, while a run waits for the numbers of a step's point."""
    start, done = FakeRun._start, []

    def started(own: FakeRun) -> None:
        start(own)
        assert own.lead and own.lead.spare
        outcomes = own.lead.spare.outcomes

        def awaited(subject: Subject) -> Any:
            if subject.step == step and not done:
                done.append(step)
                do()
            return outcomes(subject)

        own.lead.spare.outcomes = awaited  # type: ignore[method-assign]

    monkeypatch.setattr(FakeRun, "_start", started)


@pytest.mark.parametrize("step", [0, 2, 6, 8])  # those of the last three are waited for at the end of the run
def test_a_run_that_is_terminated_while_numbers_are_awaited_gives_up_the_wait_and_a_resume_decides_alike(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    whole = FakeRun(config, Notes())
    go(monkeypatch, whole)

    def wait_in_vain() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        Future[None]().result(60)

    when_awaited(monkeypatch, step, wait_in_vain)
    run, last = FakeRun(config, Notes()), min(step + 2, 8)
    with StopSignal(0, answers=True) as stop, monkeypatch.context() as patch:
        patch.setattr(fake_run, "StopSignal", lambda *_, **__: stop)
        with pytest.raises(Stopped, match=f"^stopped by SIGTERM after step {last}, which is committed; go on with"):
            go(monkeypatch, run)
    # nothing that was awaited has decided, and nothing is lost
    assert step in [point.step for point in run.state.awaited]
    assert not run.notes.of("export") and max(run.fake_store.states) == last
    after = resumed(run, last, config)
    notes = go(monkeypatch, after)
    assert after.state == whole.state and notes.of("export") == whole.notes.of("export")
    assert run.notes.of("best") + notes.of("best") == whole.notes.of("best")


@pytest.mark.parametrize(("step", "last"), [(0, 3), (2, 5), (6, None)])
def test_a_run_that_its_folder_asks_to_stop_while_numbers_are_awaited_ends_after_the_step_under_way(
    step: int, last: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    whole = FakeRun(config, Notes())
    go(monkeypatch, whole)
    (tmp_path / "run").mkdir()
    when_awaited(monkeypatch, step, (tmp_path / "run" / STOP).touch)
    run = FakeRun(config, Notes())
    if last is None:  # no step is left: it ends as it would have
        go(monkeypatch, run)
        assert run.state == whole.state
        return
    with pytest.raises(Stopped, match=f"^stopped by egrc stop after step {last}, which is committed"):
        go(monkeypatch, run)
    (tmp_path / "run" / STOP).unlink()
    after = resumed(run, last, config)
    assert go(monkeypatch, after).of("export") == whole.notes.of("export") and after.state == whole.state


def test_a_best_step_that_could_not_be_written_is_none_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun(config_of(tmp_path), Notes())
    run.fake_store.full_at = {2}
    assert go(monkeypatch, run).of("best") == [(1, 0.5), (3, 0.6), (4, 0.8)]


def test_weights_that_servers_load_from_a_folder_are_measured_without_being_gathered_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linked(_lead: Any, step: int, version: str) -> bytes:
        return f"{version} of step {step}".encode()

    monkeypatch.setattr(fake_run.FakeLead, "keep_served", linked)
    run = FakeRun(config_of(tmp_path, every=2), Notes())
    notes = go(monkeypatch, run)
    assert notes.of("keep") == []
    assert [weights for *_, step, weights in notes.of("point")] == [f"v{s} of step {s}" for s in (0, 2, 4, 6, 8)]


def test_weights_that_are_gone_before_they_are_measured_decide_nothing_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun(config_of(tmp_path), Notes())
    measured = run.__class__._start

    def start(own: FakeRun) -> None:
        measured(own)
        assert own.lead and own.lead.spare
        outcomes = own.lead.spare.outcomes
        own.lead.spare.outcomes = lambda subject: [] if subject.step == 4 else outcomes(subject)  # type: ignore[method-assign]

    monkeypatch.setattr(FakeRun, "_start", start)
    assert go(monkeypatch, run).of("best") == [(1, 0.5), (2, 0.7), (5, 0.8)]


def test_spare_servers_keep_their_own_count_of_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(config_of(tmp_path), Notes())
    start = FakeRun._start

    def lose_one(own: FakeRun) -> None:
        start(own)
        assert own.lead and own.lead.spare and own.lead.spare.fleet.restarts.take()

    monkeypatch.setattr(FakeRun, "_start", lose_one)
    go(monkeypatch, run)
    assert len(run.state.spent.spare_restarts) == 1 and run.state.spent.restarts == ()


def test_at_least_one_point_may_be_awaited() -> None:
    with pytest.raises(ValueError, match="max_pending"):
        SpareSection(max_pending=0)
