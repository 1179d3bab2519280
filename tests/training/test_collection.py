"""Over-sampling, dynamic sampling, partial rollouts, refusals and sampling ahead: groups are whole, nothing is lost."""

import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from aiohttp import web

from egrc_mega.errors import RolloutError
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import Method, NoState, build_method
from egrc_mega.methods.records import View
from egrc_mega.methods.thinkprune import ThinkPruneSection, ThinkPruneState
from egrc_mega.policy.loss import LossRows, policy_loss
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.rollout.wire import NEUTRAL
from egrc_mega.sections.base import Section
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.seeds import derive_seed
from egrc_mega.stages.state import Carried, Position
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.samples import batch_of
from egrc_mega.training.collection import Collector, Means, Planner, StepGroups
from egrc_mega.training.turn import Turn
from egrc_mega.types import (
    Ask,
    Completion,
    Drawn,
    FinishReason,
    Grade,
    IntArray,
    Problem,
    RolloutRequest,
    Sample,
    TrainSample,
    token_array,
)

N = 2
STAGE = ExploreSection(steps=5, clip_len=8, rollout={"n": N, "max_new_tokens": 6}, loss={"tis_cap": 2.0})
DROPPING = STAGE.model_copy(update={"rollout": STAGE.rollout.model_copy(update={"drop_groups": "no_advantage"})})
STEPS = range(5)
START = Position()


def turn_of(step: int, stage: StageSection = STAGE, state: Section | None = None) -> Turn:
    method = build_method(stage)
    view = View(step=step, state=state or method.State(), seed=1)
    return Turn(step, step, stage, method, view, f"v{step}")


class Problems:
    """Problem number p is called p<p>."""

    def take(self, position: int) -> Problem:
        return Problem(key=f"p{position}", text="", answer="7")


class Words:
    """Renders problem number p as 1, p + 10, and a system text as one token more."""

    def prompt_ids(self, problem: Problem, ask: Ask) -> IntArray:
        return token_array([1, int(problem.key[1:]) + 10] + [2] * (ask.system is not None))

    def forced_ids(self, ask: Ask) -> IntArray:
        return token_array([3] * len(ask.forced))


PLANNER = Planner(Problems(), Words(), 1, ())  # type: ignore[arg-type]


def judge(drawn: Sequence[Drawn], _needs: frozenset[str]) -> list[Sample]:
    """Right when the last token is 7; as if that had ended the response."""
    return [
        Sample(
            problem=one.problem,
            ask=one.ask,
            prompt_ids=one.request.prompt_ids,
            completion=replace(one.completion, finish_reason=FinishReason.STOP),
            text="",
            grade=Grade.RIGHT if one.completion.output_ids[-1] == 7 else Grade.WRONG,
            well_formed=True,
        )
        for one in drawn
    ]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def collector(request: pytest.FixtureRequest, fake: FakeServer, tmp_path: Path) -> Iterator[Collector]:
    fields = {"prompts_per_step": 3, "request_timeout_s": 20.0, "max_attempts": 2} | getattr(request, "param", {})
    section = RolloutSection(server="external", urls=(fake.url,), **fields)
    with Fleet.start(section, tmp_path, "v0", tmp_path) as fleet:
        fleet.update_weights(FolderWeights(tmp_path, "v0"))
        yield Collector(Means(section, PLANNER, fleet, None, judge))


def places_of(position: Position) -> list[int]:
    return [carried.place for carried in position.carried]


def number_of(body: dict) -> int:
    return body["input_ids"][1] - 10


def prompts_of(collected: StepGroups) -> list[str]:
    assert all(len(group.samples) == N for group in collected.groups)
    return [group.problem.key for group in collected.groups]


def test_a_plain_step_takes_its_prompts_in_order_and_leaves_nothing(collector: Collector) -> None:
    first = collector.collect(turn_of(0), START)
    assert prompts_of(first) == ["p0", "p1", "p2"]
    assert first.position == Position(cursor=3)
    second = collector.collect(turn_of(1), first.position)
    assert prompts_of(second) == ["p3", "p4", "p5"]
    assert second.counts == {
        "sampled_groups": 3,
        "groups_without_signal": 0,
        "refused_groups": 0,
        "aborted_requests": 0,
        "carried_groups": 0,
        "requeued_groups": 0,
    }


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6}], indirect=True)
def test_an_over_sampled_step_trains_whole_groups_only_and_counts_what_it_aborted(
    collector: Collector, fake: FakeServer
) -> None:
    # five are asked for; of p1 one sample never ends, of p3 none does
    fake.holds = lambda body: number_of(body) == 3 or (number_of(body) == 1 and body["rid"].endswith("0001"))
    collected = collector.collect(turn_of(0), START)
    assert prompts_of(collected) == ["p0", "p2", "p4"]
    assert collected.counts["sampled_groups"] == 5
    assert collected.counts["aborted_requests"] == 3
    assert collected.counts["carried_groups"] == 2
    assert fake.num_aborts >= 1
    batch = batch_of(collected.groups, STAGE)
    assert sum(map(len, batch.updates)) + len(batch.dropped) == 3 * N


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6}], indirect=True)
def test_aborted_prompts_come_first_in_the_next_step_and_start_again(collector: Collector, fake: FakeServer) -> None:
    fake.holds = lambda body: number_of(body) in (1, 3)
    first = collector.collect(turn_of(0), START)
    assert first.position == Position(cursor=5, carried=(Carried(place=1, age=1), Carried(place=3, age=1)))
    fake.holds = lambda body: number_of(body) in (5, 6)
    second = collector.collect(turn_of(1), first.position)
    assert "p1" in prompts_of(second) and "p3" in prompts_of(second)
    for group in second.groups:
        assert all(s.completion.output_ids.tolist() == [7] * 6 for s in group.samples)
    # a run that starts again from a checkpoint asks for the same prompts
    collector.waiting = {}
    fake.holds = lambda body: number_of(body) not in (1, 3, 5)
    again = collector.collect(turn_of(1), first.position)
    assert prompts_of(again) == ["p1", "p3", "p5"]


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6, "partial_rollouts": True}], indirect=True)
def test_a_sample_that_spans_two_versions_carries_both_and_its_importance_weight(
    collector: Collector, fake: FakeServer, tmp_path: Path
) -> None:
    fake.holds = lambda body: number_of(body) in (1, 3)
    first = collector.collect(turn_of(0), START)
    collector.means.fleet.update_weights(FolderWeights(tmp_path, "v1"))
    fake.holds = lambda body: number_of(body) in (5, 6)
    fake.bodies.clear()
    second = collector.collect(turn_of(1), first.position)
    group = next(group for group in second.groups if group.problem.key == "p1")
    for sample in group.samples:
        spans = [(span.version, span.start, span.end) for span in sample.completion.weight_versions]
        assert spans == [("v0", 0, 2), ("v1", 2, 6)]
        assert sample.completion.output_ids.tolist() == [7] * 6
    # the server was asked for the rest only
    continued = next(body for body in fake.bodies if number_of(body) == 1)
    assert (continued["input_ids"], continued["sampling_params"]["max_new_tokens"]) == ([1, 11, 7, 7], 4)
    batch = batch_of([group], STAGE, "v1")
    for sample in batch.dropped:  # one group of right answers only has no advantage
        assert sample.compared.tolist() == [False, False, True, True, True, True]
        assert sample.rollout_logprobs.tolist() == [-1.0] * 6
        assert tis_weight(sample, older=(math.log(1.5), math.log(3.0))) == pytest.approx((1.5 + 2.0 + 4 * 1.0) / 6)
    assert len(batch.dropped) == N


def tis_weight(sample: TrainSample, older: tuple[float, float]) -> float:
    """Mean weight of the tokens when the present policy's log-probs of the first two are `older` more than v0's."""
    present_R = torch.tensor(sample.rollout_logprobs) + torch.tensor([*older, 0.0, 0.0, 0.0, 0.0])
    rows = LossRows(
        advantages_R=torch.ones(6),
        weights_R=torch.ones(6),
        boundaries_S=torch.tensor([0, 6], dtype=torch.int32),
        rollout_logprobs_R=torch.tensor(sample.rollout_logprobs),
    )
    metrics = policy_loss(present_R, rows, STAGE.loss).metrics
    return float(metrics.tis_weight / metrics.num_tokens)


@pytest.mark.parametrize(
    "collector", [{"over_sampling": 1.6, "partial_rollouts": True, "max_staleness": 1}], indirect=True
)
def test_tokens_that_grow_too_old_are_sampled_again(collector: Collector, fake: FakeServer, tmp_path: Path) -> None:
    position = START
    for index in range(2):
        fake.holds = lambda body: number_of(body) == 1 or number_of(body) > 6
        collected = collector.collect(turn_of(index), position)
        position = collected.position
        assert 1 in places_of(position)
        collector.means.fleet.update_weights(FolderWeights(tmp_path, f"v{index + 1}"))
    fake.holds = lambda body: number_of(body) > 8
    fake.bodies.clear()
    last = collector.collect(turn_of(2), position)
    group = next(group for group in last.groups if group.problem.key == "p1")
    # of v0, v1 and v2 only the last two may be in a batch of v2
    for sample in group.samples:
        assert {span.version for span in sample.completion.weight_versions} <= {"v1", "v2"}


def test_groups_without_a_signal_are_replaced(collector: Collector, fake: FakeServer) -> None:
    # even prompts: one right, one wrong; odd ones: both right, so no sample has an advantage
    fake.is_right = lambda body: number_of(body) % 2 == 1 or body["rid"].endswith("0000")
    collected = collector.collect(turn_of(0, DROPPING), START)
    assert prompts_of(collected) == ["p0", "p2", "p4"]
    assert collected.counts["groups_without_signal"] in (2, 3)
    assert collected.position.cursor in (5, 6)


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6}], indirect=True)
def test_the_length_sampled_is_over_every_response_that_ended_also_in_carried_groups(
    collector: Collector, fake: FakeServer
) -> None:
    # of p1 one sample never ends; the other is not trained in this step, and has a length
    fake.holds = lambda body: number_of(body) == 3 or (number_of(body) == 1 and body["rid"].endswith("0001"))
    fake.is_right, shorter = lambda body: False, fake.reply
    planner = Planner(Problems(), Words(), 1, (8,))  # type: ignore[arg-type]
    collector.means = replace(collector.means, planner=planner)

    def reply(body: dict) -> dict:
        count = 1 if number_of(body) == 1 else 3
        own = shorter(body | {"sampling_params": {"max_new_tokens": count}})
        own["meta_info"]["finish_reason"] = {"type": "stop", "matched": 8}
        return own

    fake.reply = reply  # type: ignore[method-assign]
    collected = collector.collect(turn_of(0), START)
    trained = [len(s.completion.output_ids) for group in collected.groups for s in group.samples]
    assert trained == [3] * len(trained)
    assert collected.length_sampled == pytest.approx((sum(trained) + 1) / (len(trained) + 1))


def test_the_length_sampled_is_over_dropped_groups_too(collector: Collector, fake: FakeServer) -> None:
    fake.is_right = lambda body: number_of(body) % 2 == 1 or body["rid"].endswith("0000")
    collected = collector.collect(turn_of(0, DROPPING), START)
    assert collected.counts["groups_without_signal"] > 0
    [length] = {len(s.completion.output_ids) for group in collected.groups for s in group.samples}
    assert collected.length_sampled == length


@pytest.mark.parametrize("collector", [{"partial_rollouts": True, "over_sampling": 1.6}], indirect=True)
def test_with_everything_switched_on_each_prompt_is_trained_or_without_signal_or_carried_once(
    collector: Collector, fake: FakeServer, tmp_path: Path
) -> None:
    def has_signal(body: dict) -> bool:
        return number_of(body) % 3 != 0

    fake.is_right = lambda body: not has_signal(body) or "0000" in body["rid"].rpartition("-")[2]
    fake.hold_s = 0.3
    position, trained, num_idle, num_carried = START, [], 0, 0
    for index in range(5):
        fake.holds = lambda body: number_of(body) % 4 == index  # noqa: B023
        collected = collector.collect(turn_of(index, DROPPING), position)
        position = collected.position
        assert len(collected.groups) == 3
        trained += prompts_of(collected)
        num_idle += collected.counts["groups_without_signal"]
        num_carried += len(position.carried)
        for completion in (sample.completion for group in collected.groups for sample in group.samples):
            assert len(completion.output_ids) == 6 == completion.weight_versions[-1].end
            assert all(int(span.version[1:]) >= index - 2 for span in completion.weight_versions)
        collector.means.fleet.update_weights(FolderWeights(tmp_path, f"v{index + 1}"))
    assert len(trained) == len(set(trained)) == 15
    assert num_carried and num_idle
    assert not set(trained) & {f"p{place}" for place in places_of(position)}
    assert position.cursor == len(trained) + num_idle + len(position.carried)


@pytest.mark.parametrize("collector", [{"dynamic_sampling_limit": 2.0}], indirect=True)
def test_too_few_groups_with_a_signal_stop_the_run_with_the_numbers(collector: Collector) -> None:
    message = r"stages\.explore\.rollout\.drop_groups: 6 prompts gave 0 of 3 groups .*dynamic_sampling_limit = 2"
    with pytest.raises(RolloutError, match=message):
        collector.collect(turn_of(0, DROPPING), START)


class SmallHelpings:
    """A stream whose replies, all without a signal, come a few at a time."""

    def __init__(self, helping: int) -> None:
        self.helping = helping
        self.open: list[RolloutRequest] = []

    @property
    def num_open(self) -> int:
        return len(self.open)

    def add(self, requests: Sequence[RolloutRequest], begun: object) -> None:
        self.open += requests

    def take(self) -> list[Completion]:
        taken, self.open = self.open[: self.helping], self.open[self.helping :]
        return [
            Completion(
                rid=request.rid,
                output_ids=token_array([7]),
                logprobs=np.array([-0.5], np.float32),
                sampled=np.array([True]),
                finish_reason=FinishReason.STOP,
                weight_versions=(),
            )
            for request in taken
        ]

    def abort(self) -> list[Completion]:
        assert not self.open
        return []


@pytest.mark.parametrize("over_sampling", [1.0, 1.6, 2.5])
@pytest.mark.parametrize("helping", range(1, 14))
def test_the_limit_of_dynamic_sampling_is_used_up_however_replies_arrive(helping: int, over_sampling: float) -> None:
    section = RolloutSection(prompts_per_step=3, dynamic_sampling_limit=2.0, over_sampling=over_sampling)
    fleet = SimpleNamespace(stream=lambda _environment: nullcontext(SmallHelpings(helping)))
    collector = Collector(Means(section, PLANNER, fleet, None, judge))  # type: ignore[arg-type]
    with pytest.raises(RolloutError, match="6 prompts gave 0 of 3 groups"):
        collector.collect(turn_of(0, DROPPING), START)


def refuse(fake: FakeServer, numbers: set[int]) -> None:
    """Answer every request for these prompts with 400."""
    original = fake.is_right

    def decide(body: dict) -> bool:
        if number_of(body) in numbers:
            fake.faults.insert(0, lambda _reply: web.json_response({"error": {"message": "too long"}}, status=400))
        return original(body)

    fake.is_right = decide


def test_a_refused_prompt_is_absent_with_its_whole_group_and_counted(collector: Collector, fake: FakeServer) -> None:
    refuse(fake, {1})
    collected = collector.collect(turn_of(0), START)
    assert prompts_of(collected) == ["p0", "p2"]
    assert collected.counts["refused_groups"] == 1
    assert collector.means.fleet.take_stats()["lost_requests"] == 0


@pytest.mark.parametrize("collector", [{"max_refused": 1}], indirect=True)
def test_a_used_up_budget_of_refusals_stops_the_run_with_the_servers_reason(
    collector: Collector, fake: FakeServer
) -> None:
    refuse(fake, {0, 2})
    with pytest.raises(RolloutError, match=r"with 400: .*too long.*rollout\.max_refused = 1 prompts"):
        collector.collect(turn_of(0), START)


def test_a_step_whose_every_prompt_is_refused_says_why(collector: Collector, fake: FakeServer) -> None:
    refuse(fake, {0, 1, 2})
    with pytest.raises(RolloutError, match=r"refused every prompt of step 1, the last one so: .*with 400: .*too long"):
        collector.collect(turn_of(0), START)


def test_a_request_that_somebody_else_aborts_is_sent_again(collector: Collector, fake: FakeServer) -> None:
    held = {"once": True}

    def hold(body: dict) -> bool:
        return number_of(body) == 1 and held.pop("once", False)

    fake.holds = hold
    timer = threading.Timer(0.3, lambda: collector.means.fleet.run(collector.means.fleet.servers[0].client.abort_all()))
    timer.start()
    collected = collector.collect(turn_of(0), START)
    assert prompts_of(collected) == ["p0", "p1", "p2"]
    assert all(s.completion.output_ids.tolist() == [7] * 6 for group in collected.groups for s in group.samples)
    assert collector.means.fleet.take_stats()["lost_requests"] == 1


def test_what_leaves_for_training_is_what_the_stage_says(collector: Collector, fake: FakeServer) -> None:
    fields = {"n": N, "max_new_tokens": 6, "temperature": 0.7, "top_p": 0.9, "top_k": 20}
    stage = ExploreSection(steps=5, clip_len=8, rollout=fields, loss={"tis_cap": 2.0})
    planner = Planner(PLANNER.problems, PLANNER.renderer, 7, (2, 5))
    collector.means = replace(collector.means, planner=planner)
    collector.collect(turn_of(0, stage), START)
    assert len(fake.bodies) == 3 * N
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_new_tokens": 6, "stop_token_ids": [2, 5]}
    for body in fake.bodies:
        seed = body["sampling_params"].pop("sampling_seed")
        place, n = (int(part) for part in re.findall(r"(?:prompt|sample)(\d+)", body["rid"]))
        assert seed == derive_seed(7, "rollout", 0, place, n)
        assert body["sampling_params"] == NEUTRAL | asked
        assert (body["input_ids"], body["return_logprob"]) == ([1, place + 10], True)
        assert body["return_sampling_mask"]


def test_ids_are_unique_and_no_prefix_of_another(collector: Collector, fake: FakeServer) -> None:
    position = START
    for step in STEPS[:3]:
        position = collector.collect(turn_of(step), position).position
    rids = [body["rid"] for body in fake.bodies]
    assert len(set(rids)) == len(rids) == 9 * N
    assert not any(a != b and b.startswith(a) for a in rids for b in rids)
    assert all(re.fullmatch(r"step\d{6}-prompt\d{5}-sample\d{4}", rid) for rid in rids)


# what is carried


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6, "max_carried_steps": 2}], indirect=True)
@pytest.mark.parametrize("partial", [False, True])
def test_no_problem_is_carried_for_more_steps_than_the_bound(
    collector: Collector, fake: FakeServer, partial: bool, tmp_path: Path
) -> None:
    section = collector.means.section.model_copy(update={"partial_rollouts": partial})
    collector.means = replace(collector.means, section=section)
    # two problems are slower than all others, for ever: whoever waits gets them
    fake.hold_s = 0.4
    fake.holds = lambda body: number_of(body) in (1, 3)
    position, trained_at = START, {}
    for step in STEPS:
        collected = collector.collect(turn_of(step), position)
        position = collected.position
        assert len(collected.groups) == 3
        assert all(carried.age <= 2 for carried in position.carried)
        trained_at |= dict.fromkeys(prompts_of(collected), step)
        collector.means.fleet.update_weights(FolderWeights(tmp_path, f"v{step + 1}"))
    assert trained_at["p1"] <= 2
    assert trained_at["p3"] <= 2


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6, "partial_rollouts": True}], indirect=True)
def test_a_carried_group_whose_plan_has_changed_is_planned_anew(collector: Collector, fake: FakeServer) -> None:
    stage = ThinkPruneSection(caps=(6, 5), steps_per_cap=1, rollout={"n": N}, loss={"tis_cap": 2.0})
    fake.holds = lambda body: number_of(body) in (1, 3)
    first = collector.collect(turn_of(0, stage), START)
    assert places_of(first.position) == [1, 3]
    fake.holds = lambda body: False
    fake.bodies.clear()
    second = collector.collect(turn_of(1, stage, ThinkPruneState(phase=1)), first.position)
    assert {"p1", "p3"} <= set(prompts_of(second))
    assert {body["sampling_params"]["max_new_tokens"] for body in fake.bodies} == {5}
    assert all(len(s.completion.output_ids) == 5 for group in second.groups for s in group.samples)


@pytest.mark.parametrize("collector", [{"over_sampling": 1.6, "partial_rollouts": True}], indirect=True)
def test_a_stage_that_opens_plans_what_is_carried_from_the_start(collector: Collector, fake: FakeServer) -> None:
    fake.holds = lambda body: number_of(body) in (1, 3)
    first = collector.collect(turn_of(0), START)
    fake.holds = lambda body: False
    fake.bodies.clear()
    opening = replace(turn_of(1), step_in_stage=0)
    collector.collect(opening, first.position)
    carried = [body for body in fake.bodies if number_of(body) in (1, 3)]
    assert len(carried) == 2 * N
    assert all(body["sampling_params"]["max_new_tokens"] == 6 for body in carried)


def test_what_the_method_asks_for_leaves_in_every_request(collector: Collector, fake: FakeServer) -> None:
    class Asking(Method[ExploreSection, NoState]):
        def plan(self, problem: Problem, view: View) -> list[Ask]:
            return [Ask(), Ask(system="Be brief.", forced="ab", max_new_tokens=5, tag="short")]

    turn = replace(turn_of(0), method=Asking(STAGE))
    collected = collector.collect(turn, START)
    plain, asked = collected.groups[0].samples
    assert (plain.ask.tag, asked.ask.tag) == ("", "short")
    assert asked.prompt_ids.tolist() == [1, 10, 2]
    assert asked.completion.output_ids[:2].tolist() == [3, 3]
    assert asked.completion.sampled.tolist() == [False, False, True, True, True]
    body = next(body for body in fake.bodies if body["rid"] == asked.completion.rid)
    assert body["input_ids"] == [1, 10, 2, 3, 3]
    assert body["sampling_params"]["max_new_tokens"] == 3


def test_every_sample_of_a_run_has_a_seed_of_its_own(collector: Collector, fake: FakeServer) -> None:
    position = START
    for step in STEPS[:3]:
        position = collector.collect(turn_of(step), position).position
    seeds = [body["sampling_params"]["sampling_seed"] for body in fake.bodies]
    assert len(set(seeds)) == len(seeds)
    # a function of the place in the run only
    request = PLANNER.plan(4, 1, turn_of(1)).requests[1]
    assert request.seed == derive_seed(1, "rollout", 1, 1, 1)
    assert request.seed in seeds
