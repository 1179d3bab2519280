"""Collection under random arrival: every problem is trained, without signal, refused or carried, and only once."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egrc_mega.errors import RolloutError
from egrc_mega.sections.stage import StageSection
from egrc_mega.seeds import derive_seed
from egrc_mega.stages.state import Carried, Position
from egrc_mega.testing.fake_stream import (
    CAP,
    SECTION,
    STEPS,
    WANTED,
    N,
    Servers,
    collector_of,
    place_of,
    turn_of,
)
from egrc_mega.training.collection import Collector, StepGroups
from egrc_mega.training.fates import OTHER_STAGE
from egrc_mega.training.staleness import oldest_lag

START = Position()


@dataclass
class Run:
    """Steps with one collector, and everything that has become of the problems."""

    collector: Collector
    servers: Servers
    stage: StageSection = SECTION
    position: Position = START
    trained: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def step(self, number: int) -> StepGroups:
        self.servers.version = f"v{number}"
        carried, first = self.position.carried, self.position.cursor
        found = self.collector.collect(turn_of(number, self.stage), self.position)
        self.check_step(found, carried, first, number)
        self.position = found.position
        self.trained += [int(group.problem.key) for group in found.groups]
        self.counts.update(found.counts)
        return found

    def check_step(self, found: StepGroups, carried: Sequence[Carried], first: int, number: int) -> None:
        """What holds of every step."""
        places = [int(group.problem.key) for group in found.groups]
        assert places == sorted(set(places))
        assert all(len(group.samples) == N for group in found.groups)
        assert all(sample.length == CAP for group in found.groups for sample in group.samples)
        sent = list(dict.fromkeys(place_of(request) for request in self.servers.sent))
        old = [one.place for one in carried]
        new = list(range(first, found.position.cursor))
        # carried ones first, in their order, then new ones in theirs; a group that was whole is not asked again
        assert [p for p in sent if p in old] == [p for p in old if p in sent]
        assert [p for p in sent if p not in old] == new
        assert set(places) <= {*old, *new}
        assert found.counts["sampled_groups"] == len(old) + len(new)
        left = found.position.carried
        assert found.counts["carried_groups"] == len(left)
        assert found.counts["aborted_requests"] == self.servers.num_aborted
        assert [(-one.age, one.place) for one in left] == sorted((-one.age, one.place) for one in left)
        ages = {one.place: one.age + 1 for one in carried} | dict.fromkeys(new, 1)
        assert all(one.age == ages[one.place] for one in left)
        limit = self.collector.means.section.max_staleness
        for sample in (sample for group in found.groups for sample in group.samples):
            assert oldest_lag([sample.completion], number) <= limit
        for completion in self.servers.begun.values():
            assert completion.sampled.any() and oldest_lag([completion], number) <= limit

    def check_end(self) -> None:
        """Every problem is in one place."""
        carried = [one.place for one in self.position.carried]
        assert len(set(self.trained)) == len(self.trained)
        assert len(set(carried)) == len(carried)
        assert not set(carried) & set(self.trained)
        gone = self.counts["groups_without_signal"] + self.counts["refused_groups"]
        assert self.position.cursor == len(self.trained) + gone + len(carried)


OVER = st.sampled_from([1.0, 1.3, 1.6, 2.0])
OVER_MUCH = st.sampled_from([1.0, 1.3, 2.0, 2.1, 2.5, 3.0, 3.4, 4.0])
PATIENT = settings(deadline=None, max_examples=60, derandomize=True)


def most_steps_carried(over: float, carried: int) -> int:
    """The bound that docs/rollout.md states."""
    return carried + max(0, math.ceil(over) - 2)


@PATIENT
@given(seed=st.integers(0, 2**32), over=OVER, partial=st.booleans(), lag=st.integers(1, 3), carried=st.integers(1, 3))
def test_every_problem_is_trained_or_carried_once_and_as_many_are_asked_for_as_the_field_says(
    seed: int, over: float, partial: bool, lag: int, carried: int
) -> None:
    servers = Servers(random.Random(seed))
    fields = {"over_sampling": over, "partial_rollouts": partial, "max_staleness": lag, "max_carried_steps": carried}
    run = Run(collector_of(servers, **fields), servers)
    for number in range(STEPS):
        before = run.position
        found = run.step(number)
        assert len(found.groups) == WANTED
        # over-sampling asks for the documented number, carried ones among them
        assert found.counts["sampled_groups"] == max(len(before.carried), math.ceil(WANTED * over))
    run.check_end()
    assert run.counts["groups_without_signal"] == run.counts["refused_groups"] == 0


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    over=OVER_MUCH,
    partial=st.booleans(),
    lag=st.integers(1, 3),
    carried=st.integers(1, 3),
    slow=st.frozensets(st.integers(0, 40)),
    drops=st.booleans(),
    refuses=st.sampled_from([0.0, 0.02]),
)
def test_no_problem_is_carried_through_more_steps_than_the_documented_bound_whatever_is_slow(
    seed: int, over: float, partial: bool, lag: int, carried: int, slow: frozenset[int], drops: bool, refuses: float
) -> None:
    servers = Servers(random.Random(seed), slow=slow, refuses=refuses)
    fields = {"over_sampling": over, "partial_rollouts": partial, "max_staleness": lag, "max_carried_steps": carried}
    more = {"max_refused": 500, "dynamic_sampling_limit": 50}
    kind = "all_right_or_wrong" if drops else "never"
    stage = SECTION.model_copy(update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": kind})})
    run = Run(collector_of(servers, **fields, **more), servers, stage)
    for number in range(10):
        run.step(number)
        assert all(one.age <= most_steps_carried(over, carried) for one in run.position.carried)
        assert len(run.position.carried) <= math.ceil(WANTED * over) - WANTED
    run.check_end()


@pytest.mark.parametrize("carried", [1, 2, 3])
@pytest.mark.parametrize("over", [1.25, 1.6, 2.0, 2.25, 2.5, 3.0, 3.4, 4.0])
def test_the_bound_is_reached_so_none_smaller_could_be_promised(over: float, carried: int) -> None:
    first = range(math.ceil(WANTED * over))
    servers = Servers(random.Random(3), slow=frozenset(first))
    run = Run(collector_of(servers, over_sampling=over, max_carried_steps=carried), servers)
    oldest = 0
    for number in range(10):
        run.step(number)
        oldest = max([oldest, *(one.age for one in run.position.carried)])
    assert oldest == most_steps_carried(over, carried)
    assert set(first) <= set(run.trained)


@PATIENT
@given(seed=st.integers(0, 2**32), partial=st.booleans(), carried=st.integers(1, 3))
def test_problems_that_are_always_slowest_are_waited_for(seed: int, partial: bool, carried: int) -> None:
    servers = Servers(random.Random(seed), slow=frozenset({1, 3, 4, 9, 10}))
    fields = {"over_sampling": 1.6, "partial_rollouts": partial, "max_carried_steps": carried}
    run = Run(collector_of(servers, **fields), servers)
    for number in range(STEPS):
        run.step(number)
    assert {1, 3, 4} <= set(run.trained)
    run.check_end()


@pytest.mark.parametrize(("partial", "trained"), [(False, {0, 1, 2}), (True, {1})])
def test_a_step_that_waits_for_an_overdue_problem_waits_for_all_that_begin_anew_with_it(
    partial: bool, trained: set[int]
) -> None:
    servers = Servers(random.Random(4), slow=frozenset({0, 1, 2}))
    waited = (Carried(place=1, age=3), Carried(place=0, age=2), Carried(place=2, age=1))
    fields = {"over_sampling": 1.75, "max_carried_steps": 3, "partial_rollouts": partial}
    found = collector_of(servers, **fields).collect(turn_of(4), Position(cursor=3, carried=waited))
    assert {int(group.problem.key) for group in found.groups} & {0, 1, 2} == trained
    # none is overdue: none is waited for
    early = tuple(one.model_copy(update={"age": one.age - 1}) for one in waited if one.age > 1)
    found = collector_of(servers, **fields).collect(turn_of(4), Position(cursor=3, carried=early))
    assert not {int(group.problem.key) for group in found.groups} & {0, 1, 2}


def test_a_step_that_waits_for_an_overdue_problem_waits_for_no_new_one() -> None:
    fields = {"over_sampling": 1.75, "max_carried_steps": 3}
    left = []
    for seed in range(20):
        servers = Servers(random.Random(seed), slow=frozenset({0, 3}))
        position = Position(cursor=3, carried=(Carried(place=0, age=3),))
        found = collector_of(servers, **fields).collect(turn_of(4), position)
        assert 0 in {int(group.problem.key) for group in found.groups}
        left += [one.place for one in found.position.carried]
    assert left.count(3) >= 5  # when 0 was answered it was often still open


@PATIENT
@given(
    seed=st.integers(0, 2**32),
    over=st.sampled_from([1.6, 2.5, 4.0]),
    partial=st.booleans(),
    slow=st.frozensets(st.integers(0, 30)),
)
def test_a_step_trains_the_oldest_overdue_problems_before_all_others(
    seed: int, over: float, partial: bool, slow: frozenset[int]
) -> None:
    servers = Servers(random.Random(seed), slow=slow)
    fields = {"over_sampling": over, "partial_rollouts": partial, "max_carried_steps": 1}
    run = Run(collector_of(servers, **fields), servers)
    for number in range(STEPS):
        oldest = [one.place for one in run.position.carried][:WANTED]
        places = {int(group.problem.key) for group in run.step(number).groups}
        assert set(oldest) <= places
    run.check_end()


@PATIENT
@given(seed=st.integers(0, 2**32), over=OVER, partial=st.booleans(), right=st.sampled_from([0.3, 0.6, 0.85]))
def test_groups_without_a_signal_are_replaced_and_counted(seed: int, over: float, partial: bool, right: float) -> None:
    stage = SECTION.model_copy(
        update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": "all_right_or_wrong"})}
    )
    servers = Servers(random.Random(seed), right=right)
    run = Run(
        collector_of(servers, over_sampling=over, partial_rollouts=partial, dynamic_sampling_limit=50), servers, stage
    )
    for number in range(STEPS):
        found = run.step(number)
        assert len(found.groups) == WANTED
        assert all(0 < group.accuracy < 1 for group in found.groups)
    run.check_end()


@PATIENT
@given(seed=st.integers(0, 2**32), right=st.sampled_from([0.3, 0.6]))
def test_without_over_sampling_no_more_groups_are_asked_for_than_are_missing(seed: int, right: float) -> None:
    stage = SECTION.model_copy(
        update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": "all_right_or_wrong"})}
    )
    servers = Servers(random.Random(seed), right=right)
    run = Run(collector_of(servers, dynamic_sampling_limit=50), servers, stage)
    for number in range(STEPS):
        found = run.step(number)
        assert found.counts["sampled_groups"] == WANTED + found.counts["groups_without_signal"]
        assert not found.position.carried and not servers.num_aborted
    run.check_end()


@PATIENT
@given(seed=st.integers(0, 2**32), over=OVER, partial=st.booleans(), drops=st.booleans())
def test_a_refused_problem_is_absent_counted_once_and_never_carried(
    seed: int, over: float, partial: bool, drops: bool
) -> None:
    kind = "all_right_or_wrong" if drops else "never"
    stage = SECTION.model_copy(update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": kind})})
    servers = Servers(random.Random(seed), refuses=0.1)
    fields = {"over_sampling": over, "partial_rollouts": partial, "max_refused": 500, "dynamic_sampling_limit": 50}
    run = Run(collector_of(servers, **fields), servers, stage)
    for number in range(STEPS):
        try:
            found = run.step(number)
        except RolloutError as error:  # every prompt of a step
            assert "refused every prompt" in str(error)
            return
        assert len(found.groups) == WANTED or not drops
    run.check_end()
    assert run.counts["refused_groups"] == run.collector.num_refused > 0


@PATIENT
@given(seed=st.integers(0, 2**32), partial=st.booleans(), stop=st.integers(1, STEPS - 1))
def test_whoever_begins_again_at_a_position_asks_for_what_the_run_would_have_asked(
    seed: int, partial: bool, stop: int
) -> None:
    servers = Servers(random.Random(seed))
    run = Run(collector_of(servers, over_sampling=1.6, partial_rollouts=partial), servers)
    for number in range(stop):
        run.step(number)
    position = Position.model_validate_json(run.position.model_dump_json())
    assert position == run.position
    carried = [one.place for one in position.carried]

    def asked(collector: Collector) -> list[tuple[Any, ...]]:
        collector.collect(turn_of(stop), position)
        return [(r.rid, r.seed, r.prompt_id, *r.prompt_ids.tolist()) for r in servers.sent]

    resumed, again = (asked(collector_of(servers, over_sampling=1.6)) for _ in range(2))
    assert resumed == again
    own = asked(run.collector)
    assert [row for row in own if row[-1] not in carried] == [row for row in resumed if row[-1] not in carried]
    # from the start: every sample of what is carried
    assert [row[-1] for row in resumed[: N * len(carried)]] == [place for place in carried for _ in range(N)]


@pytest.mark.parametrize("partial", [False, True])
def test_what_is_there_of_a_carried_group_is_asked_for_again_only_without_partial_rollouts(partial: bool) -> None:
    servers = Servers(random.Random(11))
    run = Run(collector_of(servers, over_sampling=2.0, partial_rollouts=partial), servers)
    for number in range(STEPS):
        before, waiting = servers.finished | set(), dict(run.collector.waiting)
        run.step(number)
        carried = [request.rid for group in waiting.values() for request in group.requests]
        again = [request.rid for request in servers.sent if request.rid in carried]
        if partial:
            assert not set(again) & before
        else:
            assert again == [r.rid for one in waiting.values() for r in one.requests]
            assert not servers.begun


def test_a_stage_that_opens_plans_what_is_carried_anew_under_numbers_of_its_own() -> None:
    servers = Servers(random.Random(5))
    run = Run(collector_of(servers, over_sampling=2.0, partial_rollouts=True), servers)
    run.step(0)
    carried = [one.place for one in run.position.carried]
    assert carried
    # one of them was trained in a batch that was begun ahead and dropped: the collector knows it no more
    del run.collector.waiting[carried[0]]
    found = run.collector.collect(turn_of(1, opens=True), run.position)
    assert found.fates and [one.reason for one in found.fates.requeued] == [OTHER_STAGE] * len(carried)
    sent = servers.sent[: N * len(carried)]
    assert [place_of(request) for request in sent] == [place for place in carried for _ in range(N)]
    for i, request in enumerate(sent):
        number, n = -1 - i // N, i % N
        assert request.seed == derive_seed(1, "rollout", 1, number, n)
        assert request.rid == f"step000001-prompt{number:05d}-sample{n:04d}"
    assert not servers.begun
    rids = [request.rid for request in servers.sent]
    assert len(set(rids)) == len(rids)


@pytest.mark.parametrize("opens", [False, True])
def test_whoever_begins_again_knows_how_long_each_problem_has_waited(opens: bool) -> None:
    servers = Servers(random.Random(9), slow=frozenset({0, 1}))
    waited = (Carried(place=0, age=2), Carried(place=1, age=1))
    collector = collector_of(servers, over_sampling=1.5, max_carried_steps=2, partial_rollouts=True)
    found = collector.collect(turn_of(4, opens=opens), Position(cursor=2, carried=waited))
    # the first is overdue and is waited for, the second has one step more
    assert 0 in [int(group.problem.key) for group in found.groups]
    assert Carried(place=1, age=2) in found.position.carried
