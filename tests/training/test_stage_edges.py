"""A run of three stages: where it measures, resets and commits, what it hands on, and that a resume changes nothing."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.errors import RunError, Stopped
from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.method import METHODS, Method, Need, NoState
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.thinkprune import ThinkPruneState
from egrc_mega.stages.state import Carried, Position, RunState
from egrc_mega.stop_signal import StopSignal
from egrc_mega.testing.fake_run import FakePolicy, FakeRun, Notes
from egrc_mega.training import run as run_module
from egrc_mega.types import Group, Sample

pytestmark = pytest.mark.usefixtures("world_of_one")

STAGES: list[dict[str, Any]] = [
    {"method": "compress", "label": "a", "steps": 2, "clip_len": 8},
    {
        "method": "thinkprune",
        "label": "b",
        "steps": 3,
        "caps": [8, 6, 4],
        "steps_per_cap": 2,
        "optim": {"reset": False},
    },
    {"method": "explore", "label": "c", "steps": 2, "clip_len": 8},
]
ENDS, COMMITS = [2, 5, 7], [(2, True), (4, False), (5, True), (6, False), (7, True)]


def config_of(tmp_path: Path, stages: list[dict[str, Any]] | None = None, **sections: Any) -> Config:
    fields: dict[str, Any] = {
        "run": {"dir": tmp_path / "run"},
        "model": {"path": tmp_path},
        "data": {"train": tmp_path / "train.jsonl"},
        "evaluation": {"data": tmp_path / "eval.jsonl"},
        "stages": stages or STAGES,
        "checkpoint": {"every": 2},
    }
    return Config(**(fields | sections))


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> Notes:
    """The true loop over a run of fakes."""
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    train_module.train(run.config, resume=run.resume)
    return run.notes


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun(config_of(tmp_path), Notes())
    go(monkeypatch, run)
    return run


def order(notes: Notes) -> list[str]:
    return [note[0] for note in notes]


def test_a_run_measures_its_base_and_the_end_of_every_stage_once(whole: FakeRun) -> None:
    points = whole.notes.of("point")
    assert [point[:3] for point in points] == [("base", 0, 0), ("a", 1, 2), ("b", 2, 5), ("c", 3, 7)]
    assert len({weights for *_place, weights in points}) == 4


def test_a_run_measures_every_so_many_steps_too_and_the_end_of_a_stage_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"data": tmp_path / "eval.jsonl", "every": 2}
    run = FakeRun(config_of(tmp_path, evaluation=evaluation), Notes())
    notes = go(monkeypatch, run)
    places = [point[:3] for point in notes.of("point")]
    assert places == [("base", 0, 0), ("a", 1, 2), ("b", 2, 4), ("b", 2, 5), ("c", 3, 6), ("c", 3, 7)]
    # after the commit of its step, before the next one begins
    order_of = [note[:2] for note in notes if note[0] in ("save", "collect", "point")]
    assert order_of[order_of.index(("save", 4)) :][:3] == [("save", 4), ("point", "b"), ("collect", 4)]


def test_a_resume_measures_what_was_due_where_the_run_was_killed_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"data": tmp_path / "eval.jsonl", "every": 3}
    whole = FakeRun(config_of(tmp_path, evaluation=evaluation), Notes())
    go(monkeypatch, whole)
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    for step in (2, 4, 6):
        run = FakeRun(config_of(tmp_path, evaluation=evaluation), Notes(), resume=True)
        run.fake_store.states = {step: whole.fake_store.states[step]}
        points = go(monkeypatch, run).of("point")
        assert points == [point for point in whole.notes.of("point") if point[2] >= step]


def test_the_optimizer_forgets_where_a_stage_says_so_after_the_point_was_measured(whole: FakeRun) -> None:
    # at the first stage and the third; the second keeps its moments
    assert whole.notes.of("reset") == [(0,), (5,)]
    names = [name for name in order(whole.notes) if name in ("point", "reset", "collect")]
    assert names == [
        "point",
        "reset",
        *["collect"] * 2,
        "point",
        *["collect"] * 3,
        "point",
        "reset",
        *["collect"] * 2,
        "point",
    ]


def test_a_checkpoint_is_taken_when_it_is_due_and_at_the_end_of_every_stage(whole: FakeRun) -> None:
    assert whole.notes.of("save") == COMMITS
    states = {step: RunState.model_validate(state) for step, state in whole.fake_store.states.items()}
    assert {step: (s.progress.step, s.progress.stage) for step, s in states.items()} == {
        2: (2, 1),
        4: (4, 1),
        5: (5, 2),
        6: (6, 2),
        7: (7, 3),
    }
    assert all(state.config == whole.config.to_dict() for state in states.values())


def test_a_step_is_published_recorded_and_then_committed(whole: FakeRun) -> None:
    kinds = ("update", "publish", "step", "rollouts", "switch", "save", "export")
    expected, saved = ["publish"], [step for step, _is_end in COMMITS]
    for step in range(1, 8):
        expected += ["update", "publish", "step", "rollouts"]
        expected += ["switch"] * (step in ENDS) + ["save"] * (step in saved)
    assert [name for name in order(whole.notes) if name in kinds] == [*expected, "export"]
    assert whole.notes.of("publish") == [(f"v{n}", float(n)) for n in range(8)]
    assert whole.notes.of("export") == [(7, 7.0)]
    assert whole.notes.of("rollouts") == [(n + 1, name) for n, name in enumerate("aabbbcc")]


def test_steps_count_over_the_run_and_within_the_stage(whole: FakeRun) -> None:
    places = [(step, stage, own) for step, stage, own, _state, _position in whole.notes.of("collect")]
    assert places == [
        (step, stage, own) for step, (stage, own) in enumerate(zip("aabbbcc", (0, 1, 0, 1, 2, 0, 1), strict=True))
    ]
    records = [facts for (facts,) in whole.notes.of("step")]
    assert [(r["step"], r["stage"], r["step_in_stage"], r["weight_version"]) for r in records] == [
        (step + 1, stage, own + 1, f"v{step}") for step, stage, own in places
    ]
    assert {record["total_steps"] for record in records} == {7}


def test_the_position_goes_from_step_to_step_and_into_the_checkpoint_whole(whole: FakeRun) -> None:
    expected = [Position()] + [Position(cursor=n, carried=(Carried(place=n - 1, age=1),)) for n in range(2, 15, 2)]
    assert [note[-1] for note in whole.notes.of("collect")] == expected[:-1]
    found = {step: RunState.model_validate(state).position for step, state in whole.fake_store.states.items()}
    assert found == {step: expected[step] for step, _is_end in COMMITS}


def test_a_methods_state_lives_as_long_as_its_stage(whole: FakeRun) -> None:
    views = [state for _step, stage, _own, state, _position in whole.notes.of("collect") if stage == "b"]
    assert views == [ThinkPruneState(), ThinkPruneState(steps=1), ThinkPruneState(phase=1)]
    kept = {step: state["method"] for step, state in whole.fake_store.states.items()}
    # of a stage that has ended, and another follows, nothing is kept; of the last one its end
    assert kept == {2: None, 4: {"phase": 1, "steps": 0}, 5: None, 6: {}, 7: {}}


def test_every_switch_is_told_with_its_reason(whole: FakeRun) -> None:
    switches = [facts for (facts,) in whole.notes.of("switch")]
    assert [(s["ended"], s["opens"], s["step"], s["steps_in_stage"]) for s in switches] == [
        ("a", "b", 2, 2),
        ("b", "c", 5, 3),
        ("c", None, 7, 2),
    ]
    lines = [line for (line,) in whole.notes.of("line") if line.startswith("stage ")]
    assert lines[:2] == ["stage a begins: 2 steps of compress", "stage a ends after 2 steps: all 2 steps are done"]


@pytest.mark.parametrize("step", [step for step, _is_end in COMMITS])
def test_a_resume_from_any_checkpoint_goes_on_as_the_run_did(
    whole: FakeRun, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, policy: FakePolicy) -> None:
        policy.num_updates = int(path.name)

    monkeypatch.setattr(run_module, "load", load)
    run = FakeRun(config_of(tmp_path), Notes(), resume=True)
    run.fake_store.states = {step: whole.fake_store.states[step]}
    notes = go(monkeypatch, run)

    def after(notes: Notes, kind: str, of_step: int) -> list[Any]:
        return [note for note in notes.of(kind) if note[of_step] >= step]

    assert notes.of("publish")[0] == (f"v{step}", float(step))
    assert notes.of("collect") == after(whole.notes, "collect", 0)
    # a stage that opens is measured again after a resume, and resets again
    assert notes.of("point") == after(whole.notes, "point", 2)
    assert notes.of("reset") == after(whole.notes, "reset", 0)
    assert notes.of("save") == [note for note in COMMITS if note[0] > step]
    assert notes.of("update") == [note for note in whole.notes.of("update") if note[0] > step]
    assert run.state == whole.state


@pytest.mark.parametrize(
    ("overrides", "refused"), [({}, None), ({"sync": {}, "data": {"shuffle": False}}, "data.shuffle")]
)
def test_a_run_of_an_earlier_version_resumes_where_newer_fields_have_their_defaults(
    whole: FakeRun,
    overrides: dict[str, Any],
    refused: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_module, "load", lambda path, policy: setattr(policy, "num_updates", int(path.name)))
    before = copy.deepcopy(whole.fake_store.states[4])
    del before["config"]["data"]["shuffle"], before["config"]["stages"][0]["rollout"]["top_k"]
    del before["config"]["supervisor"], before["config"]["stages"][1]["loss"]
    config = config_of(tmp_path)
    config = config_of(tmp_path, **{name: config.to_dict()[name] | fields for name, fields in overrides.items()})
    run = FakeRun(config, Notes(), resume=True)
    run.fake_store.states = {4: before}
    if refused is None:
        assert go(monkeypatch, run).of("save") == [note for note in COMMITS if note[0] > 4]
    else:
        with pytest.raises(RunError, match=rf"^{refused}: False, but the run has gone by True"):
            go(monkeypatch, run)


def test_a_resume_without_a_checkpoint_begins_at_the_begin(
    whole: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert order(go(monkeypatch, FakeRun(config_of(tmp_path), Notes(), resume=True))) == order(whole.notes)


def test_a_rule_that_sees_the_record_ends_a_stage_and_the_last_step_is_a_stage_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{**STAGES[0], "steps": 50, "plateau": {"entropy_floor": 0.5}}, STAGES[2]]
    notes = go(monkeypatch, FakeRun(config_of(tmp_path, stages), Notes(), entropy=0.25))
    assert [note[0] for note in notes.of("save")] == [1, 2, 3]
    assert notes.of("save")[0] == (1, True)
    assert notes.of("switch")[0][0]["reason"] == "entropy 0.25 is below its floor 0.5"
    assert [facts["total_steps"] for (facts,) in notes.of("step")] == [52, 3, 3]


@pytest.mark.parametrize("ahead", [False, True])
def test_the_next_step_is_sampled_ahead_within_a_stage_only(
    ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = {"mode": "ahead" if ahead else "sync"}
    notes = go(monkeypatch, FakeRun(config_of(tmp_path, rollout=rollout), Notes()))
    # (step, within the stage, the position after the step under way)
    assert notes.of("begin") == ([(1, 1, 2), (3, 1, 6), (4, 2, 8), (6, 1, 12)] if ahead else [])


@pytest.mark.parametrize("colocated", [False, True])
def test_colocated_servers_free_their_memory_before_every_update(
    colocated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = go(monkeypatch, FakeRun(config_of(tmp_path, rollout={"colocated": colocated}), Notes()))
    assert notes.of("release") == ([(n,) for n in range(7)] if colocated else [])


def test_the_rate_of_an_update_follows_the_step_within_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decaying = {"optim": {"lr": 1e-2, "decay": "linear"}}
    stages = [{**STAGES[0], "steps": 4, **decaying}, {**STAGES[2], "steps": 2, **decaying}]
    notes = go(monkeypatch, FakeRun(config_of(tmp_path, stages), Notes()))
    rates = [rate for _number, rate in notes.of("update")]
    assert rates == pytest.approx([7.5e-3, 5e-3, 2.5e-3, 0.0, 5e-3, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "num_held"), [({"kl_coef": 0.1}, 4), ({"old_logprobs": "reference", "ratio": "token"}, 2)]
)
def test_a_term_of_the_reference_asks_it_for_what_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: dict[str, Any], num_held: int
) -> None:
    stage = {**STAGES[0], "steps": 1, "loss": loss, "rollout": {"temperature": 0.9}}
    config = config_of(tmp_path, [stage])
    assert FakeRun(config, Notes())._keeps_reference()
    assert not FakeRun(config_of(tmp_path), Notes())._keeps_reference()
    notes = go(monkeypatch, FakeRun(config, Notes()))
    assert notes.of("score reference") == [(num_held, 0.9)]
    [(facts,)] = notes.of("step")
    assert facts["kl"] == pytest.approx(2.718281828**-1 - 1 + 1, rel=1e-5)


@pytest.mark.parametrize(("needs", "keeps"), [((), False), (("entropies",), False), (("reference_logprobs",), True)])
def test_a_reference_is_kept_for_a_method_that_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: tuple[Need, ...], keeps: bool
) -> None:
    monkeypatch.setattr(METHODS["explore"], "needs", frozenset(needs))
    assert FakeRun(config_of(tmp_path), Notes())._keeps_reference() is keeps


class Needing(Method[CompressSection, NoState]):
    """Notes what it finds on its samples."""

    def __init__(self, section: CompressSection, needs: frozenset[Need]) -> None:
        super().__init__(section)
        self.needs = needs  # type: ignore[misc]
        self.found: list[Sample] = []

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        self.found += [sample for group in groups for sample in group.samples]
        return [[Credit(advantage=1.0) for _sample in group.samples] for group in groups]


def test_nothing_more_is_sampled_for_a_stage_once_it_has_ended(whole: FakeRun) -> None:
    names = [note[0] for note in whole.notes if note[0] in ("close", "switch", "point", "collect")]
    ends = [place for place, name in enumerate(names) if name == "switch"]
    assert [names[place - 1 : place + 2] for place in ends] == [["close", "switch", "point"]] * 3
    assert names.count("close") == 3


def test_a_stop_at_the_moment_at_which_a_batch_is_there_commits_the_place_before_it(tmp_path: Path) -> None:
    class Late(StopSignal):
        """Its alarm rings when the work is done, and may still be given up."""

        @contextmanager
        def may_give_up(self) -> Iterator[None]:
            yield
            raise Stopped("the step was given up")

    run = FakeRun(config_of(tmp_path, checkpoint={"every": 5}), Notes())
    with run:
        turn = run.turn()
        assert turn
        run.collect(turn)
        run.record(turn, run.update(turn, run.credit(turn)))
        run.commit(turn)
        before, following = run.state, run.turn()
        assert following and not run.fake_store.states
        run.stop = Late(60.0, answers=True)
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 1, which is committed"):
            run.collect(following)
    assert RunState.model_validate(run.fake_store.states[1]) == before


@pytest.mark.parametrize("needs", [(), ("entropies",), ("reference_logprobs",), ("entropies", "reference_logprobs")])
def test_what_a_method_needs_is_measured_before_it_is_asked_at_the_stages_temperature(
    tmp_path: Path, needs: tuple[Need, ...]
) -> None:
    stage = {**STAGES[0], "rollout": {"temperature": 0.9}}
    run = FakeRun(config_of(tmp_path, [stage]), Notes(), entropy=0.3)
    with run:
        turn = run.turn()
        assert turn is not None
        method = Needing(turn.stage, frozenset(needs))  # type: ignore[arg-type]
        turn = replace(turn, method=method)
        run.collect(turn)
        batch = run.credit(turn)
    assert [len(update) for update in batch.updates] == [4]
    # all four samples, once; a reference costs a second pass, of its own weights
    assert run.notes.of("score reference") == ([(4, 0.9)] if "reference_logprobs" in needs else [])
    assert run.notes.of("score") == [(4, 0.9)] * (0 if not needs else 1 + ("reference_logprobs" in needs))
    for sample in method.found:
        own = None if sample.entropies is None else sample.entropies.tolist()
        assert own == (pytest.approx([0.3] * sample.length) if "entropies" in needs else None)
        other = None if sample.reference_logprobs is None else sample.reference_logprobs.tolist()
        assert other == ([-2.0] * sample.length if "reference_logprobs" in needs else None)
