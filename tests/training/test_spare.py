"""Spare servers measure one point after the other, in a thread, by the weights that were kept of it."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.errors import RolloutError
from egrc_mega.evaluation.evaluator import Evaluator, Outcome
from egrc_mega.evaluation.kept_weights import FOLDER, KeptWeights
from egrc_mega.evaluation.records import Subject
from egrc_mega.evaluation.store import read_table
from egrc_mega.observe.spans import RECORDER
from egrc_mega.rollout.restarts import RestartBudget
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.testing.samples import make_sample
from egrc_mega.training import spare as spare_module
from egrc_mega.training.spare import JUDGED_AT_ONCE, THREAD, Spare
from egrc_mega.types import Completion, Drawn, RolloutRequest, Sample

DEADLINE_S = 60.0


class FakeFleet:
    """Answers once it is let go, and is lost when it is told so."""

    def __init__(self) -> None:
        self.loaded: list[FolderWeights] = []
        self.recovered_from: list[bool] = []
        """Whether the weights were there that a lost server had to come back to."""
        self.asked: list[Sequence[RolloutRequest]] = []
        self.threads: set[str] = set()
        self.restarts, self.servers = RestartBudget(3, 3600.0), [SimpleNamespace(number=0)]
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.loss: RolloutError | None = None
        self.is_open = True

    def update_weights(self, weights: FolderWeights) -> None:
        if self.loss:
            raise self.loss
        self.loaded.append(weights)

    def generate(self, requests: Sequence[RolloutRequest], _environment: Any, tell: Any) -> list[Completion]:
        assert self.may_answer.wait(DEADLINE_S)
        self.threads.add(threading.current_thread().name)
        self.asked.append(requests)
        completions = [replace(make_sample(range(5)).completion, rid=request.rid) for request in requests]
        tell(completions)
        return completions

    def wait_until_recovered(self) -> None:
        self.recovered_from += [weights.path.is_dir() for weights in self.loaded[-1:]]

    def take_stats(self) -> dict[str, Any]:
        return {"server_events": ["server 0 is fenced"]}

    def take_timelines(self, _wall_time: Any) -> list[dict[str, Any]]:
        return [{"number": 0, "url": "here"}]

    def wait_until_ready(self) -> None:
        if self.loss:
            raise self.loss

    def close(self) -> None:
        self.is_open = False


class Bench:
    """Spare servers over fakes, and what they are given and tell."""

    def __init__(self, config: Config, folder: Path, fleet: FakeFleet) -> None:
        self.config, self.folder, self.fleet, self.kept = config, folder, fleet, KeptWeights(folder)
        renderer = Renderer(load_tokenizer(config.model.path), "")
        self.judged: list[int] = []
        # the servers that sample must not be asked
        evaluator = Evaluator(config, renderer, (2,), folder, lambda *_: pytest.fail("asked the others"), self.judge)
        training = SimpleNamespace(servers=[1, 2, 3])
        self.serving: Any = SimpleNamespace(evaluator=evaluator, environment=None, fleet=training, judge=self.judge)
        self.told: list[tuple[Subject, list[Outcome]]] = []

    def judge(self, drawn: Sequence[Drawn], _needs: Any) -> list[Sample]:
        self.judged.append(len(drawn))
        return [replace(make_sample(range(5)), problem=one.problem) for one in drawn]

    def open(self) -> Spare:
        places = self.folder, self.folder / "logs"
        return Spare(self.config, self.serving, *places, (9.0,), lambda *told: self.told.append(told), print)  # type: ignore[arg-type, func-returns-value]

    def subject(self, step: int, scale: float = 1.0) -> Subject:
        """Weights of a step, kept."""
        architecture, reader = read_architecture(self.config.model.path), HfReader(self.config.model.path)
        tensors = ((name, reader.tensor(name) * scale) for name, _shape in architecture.hf_shapes())
        dtype = reader.tensor(next(iter(reader.names()))).dtype
        weights = self.kept.write(step, tensors, architecture=architecture, source=self.config.model.path, dtype=dtype)
        return Subject(label="a", ordinal=1, step=step, weights=weights, within=True)


@pytest.fixture
def bench(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    fleet = FakeFleet()
    monkeypatch.setattr(spare_module.Fleet, "start", lambda *_, **__: fleet)
    sets = ["evaluation.num_problems=70", "evaluation.temperatures=[0.5]", "evaluation.spare={}"]
    yield Bench(load_config(root / "configs" / "quickstart.yaml", sets).config, tmp_path, fleet)
    fleet.may_answer.set()


def test_points_are_measured_in_their_order_in_another_thread_with_the_weights_of_their_step(bench: Bench) -> None:
    first, second = bench.subject(2), bench.subject(4, scale=0.5)
    bench.fleet.may_answer.clear()
    RECORDER.take()
    with bench.open() as spare:
        spare.begin(first)
        spare.begin(second)
        assert read_table(bench.folder).points == ()  # and this thread has gone on
        bench.fleet.may_answer.set()
        points = [outcome.point for one in (first, second) for outcome in spare.outcomes(one)]
    assert [(point.step, point.weights, point.within) for point in points] == [
        (2, first.weights, True),
        (4, second.weights, True),
    ]
    assert [weights.path for weights in bench.fleet.loaded] == [bench.kept.path(2), bench.kept.path(4)]
    assert len({weights.version for weights in bench.fleet.loaded}) == 2
    assert bench.fleet.threads == {THREAD}
    assert [(each.name, each.thread, each.facts) for each in RECORDER.take()] == [
        ("evaluation", THREAD, {"step": 2}),
        ("evaluation", THREAD, {"step": 4}),
    ]
    # told as they come; then nobody needs the weights
    assert [subject for subject, _outcomes in bench.told] == [first, second]
    assert list((bench.folder / FOLDER).iterdir()) == []
    # a server that is lost meanwhile has come back to them before
    assert bench.fleet.recovered_from == [True, True]
    # graders are not held for a whole benchmark
    assert bench.judged == [JUDGED_AT_ONCE, 70 - JUDGED_AT_ONCE] * 2
    assert not bench.fleet.is_open


def test_numbers_that_a_killed_run_has_got_are_kept_and_no_weights_are_loaded_for_them(bench: Bench) -> None:
    point = bench.subject(2)
    with bench.open() as spare:
        spare.begin(point)
        spare.outcomes(point)
    del bench.fleet.loaded[:], bench.fleet.asked[:]
    with bench.open() as spare:
        spare.begin(point)
        [outcome] = spare.outcomes(point)
    assert outcome.kept_from == "a" and outcome.point.weights == point.weights
    assert bench.fleet.loaded == [] and bench.fleet.asked == []


@pytest.mark.parametrize("damage", ["gone", "of other weights", "cut"])
def test_weights_that_are_not_those_of_the_point_are_not_measured_in_their_place(damage: str, bench: Bench) -> None:
    point = bench.subject(2)
    if damage == "of other weights":
        bench.subject(2, scale=2.0)
    elif damage == "cut":
        file = bench.kept.path(2) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
    else:
        bench.kept.remove(2)
    with bench.open() as spare:
        spare.begin(point)
        assert spare.outcomes(point) == []
    assert bench.fleet.loaded == [] and bench.told == [(point, [])]


def test_a_loss_beyond_the_spare_servers_own_budget_is_raised_where_the_numbers_are_wanted(bench: Bench) -> None:
    first, second = bench.subject(2), bench.subject(4)
    with bench.open() as spare:
        assert len(spare.fleet.restarts.ages()) == 1  # of the process before
        bench.fleet.loss = RolloutError("rollout.max_restarts = 3 is used up")
        spare.begin(first)
        with pytest.raises(RolloutError, match=r"^evaluation\.spare: rollout\.max_restarts"):
            spare.outcomes(first)
        bench.fleet.loss = None
        spare.begin(second)
        assert len(spare.outcomes(second)) == 1
    # what was not measured has its weights still, for the run that goes on
    assert bench.kept.has(first)


def test_a_spare_server_that_does_not_come_up_is_named_as_one(bench: Bench) -> None:
    bench.fleet.loss = RolloutError("the rollout server ended with exit code 1")
    with bench.open() as spare, pytest.raises(RolloutError, match=r"^evaluation\.spare: the rollout server ended"):
        spare.wait_until_ready()


def test_what_becomes_of_spare_servers_is_told_under_numbers_of_their_own(bench: Bench) -> None:
    with bench.open() as spare:
        assert spare.take_events() == ["server 0 is fenced"]
        assert spare.take_timelines(float) == [{"number": 3, "url": "here"}]


def test_a_resume_removes_the_weights_of_steps_that_it_comes_to_again_and_nothing_else(tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    kept.keep_only([1])  # where nothing was ever kept
    kept.path(1).mkdir(parents=True)
    kept.keep_only([])
    assert not kept.folder.exists()
    for name in ("step_000002", "step_000004", ".step_000006.partial-host-00", "mine"):
        (kept.folder / name).mkdir(parents=True)
    kept.keep_only([2, 8])
    assert sorted(path.name for path in kept.folder.iterdir()) == ["mine", "step_000002"]
