"""Asynchronous sampling without threads: bounds, terms, fates and what becomes of them, whatever comes back when."""

import random
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egrc_mega.errors import RolloutError
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_stream import CAP, SECTION, WANTED, FakeStream, N, Problems, Servers, Words, judge, place_of
from egrc_mega.testing.fake_stream import turn_of as any_turn
from egrc_mega.training.collection import Planner, StepGroups
from egrc_mega.training.fates import OTHER_STAGE, RESUMED, TOO_OLD, fate_problems
from egrc_mega.training.pool import Pool
from egrc_mega.training.sampler import Sampling
from egrc_mega.training.staleness import oldest_lag
from egrc_mega.training.turn import Turn
from egrc_mega.types import VersionSpan

STEPS = 8
STAGE = SECTION.model_copy(update={"steps": STEPS})
DROPPING = STAGE.model_copy(update={"rollout": STAGE.rollout.model_copy(update={"drop_groups": "all_right_or_wrong"})})
START = Position()
PATIENT = settings(deadline=None, max_examples=20, derandomize=True)
PLANNER = Planner(Problems(), Words(), 1, (2, 3))  # type: ignore[arg-type]
MOST_ROUNDS = 2000
"""Far beyond what a step can need."""


def turn_of(step: int, stage: StageSection = STAGE, first: int = 0) -> Turn:
    return replace(any_turn(step, stage), step_in_stage=step - first)


@dataclass
class Run:
    """A trainer beside a sampling that is never in another thread; everything that has become of the problems."""

    servers: Servers
    fields: dict[str, Any] = field(default_factory=dict)
    stage: StageSection = STAGE
    position: Position = START
    first: int = 0
    """The first step of the stage."""
    next: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    steps: list[StepGroups] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.section = RolloutSection(prompts_per_step=WANTED, mode="async", **self.fields)
        self.begin()

    def begin(self) -> None:
        """As a process that begins, or a stage: nothing is known but the position."""
        self.stream: FakeStream = self.servers.stream(None)
        turn = turn_of(self.next, self.stage, self.first)
        self.servers.version = f"v{self.next}"
        self.pool = Pool(self.section, PLANNER, turn, self.position, self.next)
        self.sampling = Sampling(self.pool, self.stream, judge)  # type: ignore[arg-type]
        self.sampling.send()

    def collect(self) -> StepGroups:
        """Wait for a batch."""
        found: Future[StepGroups] = Future()
        turn = turn_of(self.next, self.stage, self.first)
        self.sampling.post(lambda: self.sampling.want(turn, found))
        for _ in range(MOST_ROUNDS):
            self.hear()
            if found.done():
                break
        groups = found.result(0)
        self.check(groups)
        return groups

    def hear(self) -> None:
        """Some of what is open comes back; the bounds hold at every moment."""
        self.sampling.go_on()
        most = (self.section.max_staleness + 1) * WANTED
        assert len(self.pool.entries) <= most
        assert self.stream.num_open <= most * N
        assert len(self.pool._entry_of) == self.stream.num_open

    def check(self, found: StepGroups) -> None:
        """What holds of every step."""
        assert found.fates is not None
        lags = [oldest_lag([sample.completion for sample in group.samples], self.next) for group in found.groups]
        assert max(lags) <= self.section.max_staleness
        assert [int(group.problem.key) for group in found.groups] == list(found.fates.trained)
        assert found.counts["requeued_groups"] == len(found.fates.requeued)
        self.position, self.next = found.position, self.next + 1
        self.events.append(found.fates.model_dump())
        self.steps.append(found)
        assert list(fate_problems(self.events, self.position)) == []

    def publish(self) -> None:
        """The step is trained; its weights reach the servers, under what is open there."""
        self.servers.version = name = f"v{self.next}"
        self.sampling.post(lambda: self.pool.note_version(name))

    def step(self) -> StepGroups:
        """Servers go on while it trains, and wait where nothing may be asked for."""
        found = self.collect()
        for _ in range(self.servers.rng.randint(0, 3)):
            self.hear()
        self.publish()
        return found


def trained(run: Run) -> list[int]:
    return [place for event in run.events for place in event["trained"]]


STALENESS = st.integers(1, 3)
SLOW = st.frozensets(st.integers(0, STEPS * WANTED))


@PATIENT
@given(seed=st.integers(0, 2**32), staleness=STALENESS, slow=SLOW)
def test_all_that_a_stage_samples_is_trained_once_by_its_term_and_nothing_is_sampled_in_vain(
    seed: int, staleness: int, slow: frozenset[int]
) -> None:
    run = Run(Servers(random.Random(seed), slow=slow), {"max_staleness": staleness})
    for _ in range(STEPS):
        run.step()
    # so the lengths that are trained are those that were sampled, however long the long ones take
    assert sorted(trained(run)) == list(range(STEPS * WANTED))
    assert run.position == Position(cursor=STEPS * WANTED)
    assert sum(found.counts["requeued_groups"] + found.counts["aborted_requests"] for found in run.steps) == 0
    assert len(run.servers.sent) == STEPS * WANTED * N
    for number, event in enumerate(run.events):
        assert all(number <= max(place // WANTED, staleness) for place in event["trained"])
    # a stage has as many problems as it has time for: nothing is kept of those that are done
    assert not [name for name, kept in vars(run.pool).items() if isinstance(kept, Collection) and kept]


@PATIENT
@given(seed=st.integers(0, 2**32), staleness=STALENESS, slow=SLOW, right=st.sampled_from([0.3, 0.6]))
def test_dropped_and_refused_groups_are_replaced_and_every_batch_is_full(
    seed: int, staleness: int, slow: frozenset[int], right: float
) -> None:
    servers = Servers(random.Random(seed), slow=slow, right=right, refuses=0.05)
    fields = {"max_staleness": staleness, "max_refused": 500, "dynamic_sampling_limit": 50}
    run = Run(servers, fields, DROPPING)
    for _ in range(STEPS):
        found = run.step()
        assert len(found.groups) == WANTED
        assert all(0 < group.accuracy < 1 for group in found.groups)
        assert found.fates is not None
        assert found.counts["groups_without_signal"] == len(found.fates.dropped)
        assert found.counts["refused_groups"] == len(found.fates.refused)
    assert not run.position.carried and not run.stream.num_open
    assert sum(found.counts["sampled_groups"] for found in run.steps) == run.position.cursor
    assert run.pool.num_refused == sum(len(event["refused"]) for event in run.events)


@PATIENT
@given(seed=st.integers(0, 2**32), stop=st.integers(1, STEPS - 1), before=STALENESS, after=STALENESS)
def test_a_resumed_run_begins_what_was_open_anew_and_ends_with_the_same_counts(
    seed: int, stop: int, before: int, after: int
) -> None:
    run = Run(Servers(random.Random(seed)), {"max_staleness": before})
    for _ in range(stop):
        run.step()
    run.position = Position.model_validate_json(run.position.model_dump_json())
    left = [carried.place for carried in run.position.carried]
    run.section = run.section.model_copy(update={"max_staleness": after})
    run.begin()
    resumed = list(dict.fromkeys(place_of(request) for request in run.servers.sent))
    assert resumed[: len(left)] == left[: len(resumed)]
    first = run.step()
    assert first.fates is not None
    assert [(one.place, one.reason) for one in first.fates.requeued] == [(place, RESUMED) for place in left]
    while run.next < STEPS:
        assert run.step().counts["requeued_groups"] == 0
    assert sorted(trained(run)) == list(range(STEPS * WANTED))


def test_what_a_stage_leaves_is_asked_for_first_by_the_next_one_in_its_own_way_and_never_trained_before() -> None:
    run = Run(Servers(random.Random(5)), {"max_staleness": 2})
    run.step()
    left = [carried.place for carried in run.position.carried]
    assert len(left) == 2 * WANTED
    before = {request.rid for request in run.servers.sent}
    run.stage = STAGE.model_copy(update={"rollout": STAGE.rollout.model_copy(update={"temperature": 0.5})})
    run.first = run.next
    run.begin()
    sent = run.servers.sent
    assert list(dict.fromkeys(place_of(request) for request in sent))[: len(left)] == left
    assert {request.sampling.temperature for request in sent} == {0.5}
    assert not before & {request.rid for request in sent}
    found = run.step()
    assert found.fates is not None
    assert {one.reason for one in found.fates.requeued} == {OTHER_STAGE}


@PATIENT
@given(seed=st.integers(0, 2**32), every=st.integers(1, 3), right=st.sampled_from([0.4, 0.6]))
def test_through_kills_resumes_and_early_ends_of_stages_every_problem_keeps_one_fate(
    seed: int, every: int, right: float
) -> None:
    rng = random.Random(seed)
    servers = Servers(random.Random(seed), slow=frozenset(rng.sample(range(80), 16)), right=right, refuses=0.03)
    run = Run(servers, {"max_refused": 500, "dynamic_sampling_limit": 50}, DROPPING)
    committed = run.position, run.next
    for what in rng.choices(("step", "kill", "end"), (6, 2, 1), k=30):
        if what == "kill":
            run.position, run.next = committed
            del run.events[run.next :]
            run.section = run.section.model_copy(update={"max_staleness": rng.randint(1, 3)})
            run.begin()
        elif what == "step" and run.next < run.first + STEPS:
            run.step()  # in which the fates of all problems are looked at
        elif run.next > run.first:
            run.first = run.next
            run.begin()
        if run.next == run.first or run.next % every == 0:
            committed = run.position, run.next
    assert len(trained(run)) == run.next * WANTED


def test_no_more_is_asked_for_than_the_bound_allows_and_more_once_every_server_has_new_weights() -> None:
    run = Run(Servers(random.Random(1)), {"max_staleness": 2})

    def num_asked() -> int:
        return len({place_of(request) for request in run.servers.sent})

    assert num_asked() == 3 * WANTED
    run.collect()
    while run.stream.num_open:
        run.hear()
    assert num_asked() == 3 * WANTED, "while the first step trains nothing younger may be asked for"
    # the next batch is there, and may be taken before its weights are everywhere
    run.collect()
    assert num_asked() == 3 * WANTED
    run.publish()
    run.hear()
    assert num_asked() == 5 * WANTED


def test_what_is_heard_late_of_older_weights_takes_no_room_away() -> None:
    run = Run(Servers(random.Random(1)), {"max_staleness": 2})
    run.collect()
    for name in ("v1", "v0"):
        run.pool.note_version(name)
    assert run.pool.room == 1 * WANTED


def test_a_step_waits_where_what_stays_behind_would_miss_its_term_and_nowhere_else() -> None:
    # of twelve groups under v0 eight must be trained by the second step's end when max_staleness is 2
    run = Run(Servers(random.Random(2), slow=frozenset(range(2 * WANTED))), {"max_staleness": 2})
    first = run.collect()
    assert first.fates is not None and set(first.fates.trained) == set(range(2 * WANTED, 3 * WANTED))
    run.publish()
    second = run.collect()
    assert second.fates is not None and set(second.fates.trained) <= set(range(2 * WANTED)), "younger ones were ready"
    assert {place_of(request) for request in run.servers.sent if request.rid in run.servers.finished} > set(
        range(3 * WANTED, 4 * WANTED)
    )


class Backward(FakeStream):
    """Its servers answer some problems with weights that nobody has known for long."""

    def outcome(self, request: Any) -> Any:
        whole = super().outcome(request)
        if place_of(request) in (5, 6) and "attempt00" in request.rid:
            span = VersionSpan(version="v0", start=0, end=len(whole.output_ids))
            return replace(whole, weight_versions=(span,))
        return whole


def test_what_is_too_old_all_the_same_is_begun_anew_under_present_weights_and_counted_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Servers, "stream", lambda servers, _environment: Backward(servers))
    servers = Servers(random.Random(3), slow=frozenset({5, 6}))
    others = [{"trained": [*range(5)], "dropped": [], "refused": []}]
    run = Run(servers, {"max_staleness": 1}, position=Position(cursor=5), first=4, next=4, events=others)
    for _ in range(4):
        run.step()
    seen = [requeued for event in run.events[1:] for requeued in event["requeued"]]
    assert seen == [{"place": place, "reason": TOO_OLD} for place in (5, 6)]
    again = {request.rid.rpartition("-")[0] for request in run.servers.sent if place_of(request) in (5, 6)}
    assert again == {f"stage000004-problem00000{p}-attempt0{a}" for p in (5, 6) for a in (0, 1)}


class Arbitrary(FakeStream):
    """Its servers answer one request in five with weights of any age."""

    def outcome(self, request: Any) -> Any:
        outcome = super().outcome(request)
        if self.rng.random() < 0.8:
            return outcome
        version = max(0, int(self.servers.version[1:]) - self.rng.randint(0, 4))
        return replace(outcome, weight_versions=(VersionSpan(version=f"v{version}", start=0, end=CAP),))


@PATIENT
@given(seed=st.integers(0, 2**32), staleness=STALENESS, slow=SLOW)
def test_servers_that_answer_with_weights_of_any_age_hold_nothing_up_and_are_never_trained_on_beyond_the_bound(
    seed: int, staleness: int, slow: frozenset[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Servers, "stream", lambda servers, _environment: Arbitrary(servers))
        servers = Servers(random.Random(seed), slow=slow)
        run = Run(servers, {"max_staleness": staleness})
        for _ in range(STEPS):
            run.step()  # in which ages and fates are looked at
    assert sorted(trained(run)) == list(range(STEPS * WANTED))


def test_a_group_that_is_begun_anew_aborts_what_is_left_of_its_requests() -> None:
    run = Run(Servers(random.Random(4)), {"max_staleness": 1})
    entry = run.pool.entries[0]
    first = entry.asked.requests[0]
    run.stream.open.remove(first)
    run.pool.note([run.stream.whole(first)])
    entry.oldest, run.pool._may_be_late = -3, True
    run.sampling.send()
    assert {request.rid for request in entry.asked.requests} & {request.rid for request in run.stream.open} == set()
    assert run.servers.num_aborted == N - 1
    found = run.collect()
    assert found.counts["aborted_requests"] == N - 1
    late = run.stream.whole(entry.asked.requests[1])
    assert run.pool.note([late]) == [], "what still comes of it is nobody's"


def test_nothing_beyond_the_bound_is_handed_out_whoever_is_to_blame() -> None:
    run = Run(Servers(random.Random(4)), {"max_staleness": 1})
    while run.stream.num_open:
        run.hear()
    run.pool.next_step = 3
    for entry in run.pool.entries.values():
        entry.oldest = 3
    with pytest.raises(RuntimeError, match=r"tokens 3 versions old in step 4, beyond rollout.max_staleness = 1"):
        run.collect()


def test_dropped_groups_are_replaced_up_to_the_limit_and_then_the_run_stops() -> None:
    run = Run(Servers(random.Random(6), right=0.0), {"max_staleness": 1, "dynamic_sampling_limit": 3.0}, DROPPING)
    with pytest.raises(
        RolloutError,
        match=rf"stages.explore.rollout.drop_groups: {4 * WANTED} groups taught nothing, which leaves 0 of {WANTED} "
        rf"for step 1; raise rollout.dynamic_sampling_limit = 3",
    ):
        run.collect()


def test_dropped_groups_beyond_a_steps_limit_are_replaced_with_the_next_step_without_another_word() -> None:
    run = Run(Servers(random.Random(7), right=0.4), {"max_staleness": 1, "dynamic_sampling_limit": 1.0}, DROPPING)
    while run.stream.num_open:
        run.hear()
    num_dropped = len(run.pool._dropped)
    assert 0 < num_dropped <= WANTED and run.pool.room == 0 and run.pool.cursor == 2 * WANTED
    run.collect()
    assert run.stream.num_open == num_dropped * N and run.pool.cursor == 2 * WANTED + num_dropped


def test_more_refusals_than_a_run_may_lose_end_it_also_with_those_before_a_resume() -> None:
    run = Run(Servers(random.Random(6), refuses=1.0), {"max_refused": 16})
    run.pool.num_refused = 15
    with pytest.raises(RolloutError, match=r"too long; rollout.max_refused = 16 prompts of a run is used up"):
        run.collect()
    assert run.pool.num_refused == 17


def test_ids_and_seeds_of_a_problem_depend_on_its_place_and_stage_and_on_nothing_that_time_decides() -> None:
    def asked(seed: int) -> Iterator[tuple[int, str, int]]:
        run = Run(Servers(random.Random(seed)))
        for _ in range(4):
            run.step()
        yield from ((place_of(request), request.rid, request.seed) for request in run.servers.sent)

    one, other = (sorted(asked(seed)) for seed in (1, 2))
    assert one == other
    assert len({rid for _place, rid, _seed in one}) == len({seed for _place, _rid, seed in one}) == len(one)
