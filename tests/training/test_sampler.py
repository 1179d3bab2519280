"""Asynchronous sampling in its thread, against a fake server: what the trainer gets, and what ends with what."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.fake_stream import SECTION, N, Problems, Words, judge, turn_of
from egrc_mega.training import sampler as sampler_module
from egrc_mega.training.collection import Means, Planner, StepGroups
from egrc_mega.training.pool import Pool
from egrc_mega.training.sampler import SAMPLER, Sampler
from egrc_mega.training.staleness import oldest_lag
from egrc_mega.training.turn import Turn

SIZE = 2
STAGE = SECTION.model_copy(update={"steps": 4})


def turn_at(step: int, first: int = 0) -> Turn:
    return replace(turn_of(step, STAGE), step_in_stage=step - first)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def sampler(fake: FakeServer, tmp_path: Path) -> Iterator[Sampler]:
    section = RolloutSection(
        server="external", urls=(fake.url,), prompts_per_step=SIZE, mode="async", max_staleness=1, max_refused=0
    )
    planner = Planner(Problems(), Words(), 1, (2, 3))  # type: ignore[arg-type]
    with Fleet.start(section, tmp_path, "v0", tmp_path) as fleet:
        fleet.update_weights(FolderWeights(tmp_path, "v0"))
        sampler = Sampler(Means(section, planner, fleet, None, judge))
        yield sampler
        sampler.close()
        if sampler._thread is not None:
            sampler._thread.join(60)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def places(fake: FakeServer) -> set[int]:
    return {body["input_ids"][1] for body in fake.bodies}


def until_asked(fake: FakeServer, num_steps: int) -> None:
    """For the groups of so many steps, or all of the stage's."""
    until(lambda: places(fake) == set(range(min(num_steps, STAGE.steps) * SIZE)))


def refuse(fake: FakeServer, numbers: set[int]) -> None:
    """Answer every request for these problems with 400."""

    def decide(body: dict[str, Any]) -> bool:
        if body["input_ids"][1] in numbers:
            fake.faults.insert(0, lambda _reply: web.Response(status=400, text="too long"))
        return True

    fake.is_right = decide


def collect(sampler: Sampler, step: int, position: Position, first: int = 0) -> StepGroups:
    found = sampler.collect(turn_at(step, first), position)
    lags = [oldest_lag([sample.completion for sample in group.samples], step) for group in found.groups]
    assert len(found.groups) == SIZE and max(lags) <= 1
    return found


def test_a_stage_is_sampled_beside_its_steps_and_new_weights_let_it_go_on_by_themselves(
    sampler: Sampler, fake: FakeServer, tmp_path: Path
) -> None:
    position, trained = Position(), set[str]()
    for step in range(4):
        found = collect(sampler, step, position)
        position = found.position
        trained |= {group.problem.key for group in found.groups}
        sampler.begin(turn_at(min(step + 1, 3)), position)
        # as far ahead as the bound allows, and no further: nobody has asked for these groups yet
        until_asked(fake, step + 2)
        sampler.means.fleet.update_weights(FolderWeights(tmp_path, f"v{step + 1}"))
        until_asked(fake, step + 3)
    assert trained == {str(place) for place in range(4 * SIZE)}
    assert position == Position(cursor=4 * SIZE)
    assert fake.num_requests == 4 * SIZE * N and fake.num_aborts == 0
    # one stream has had the whole stage: it keeps nothing of requests that have ended
    assert sampler.sampling is not None
    stream = sampler.sampling.stream
    assert not any((stream.num_open, stream._tasks, stream._given_up, stream._homes, stream._num_of))


def test_a_stage_that_ends_early_takes_its_requests_with_it_and_the_next_begins_with_their_problems(
    sampler: Sampler, fake: FakeServer, tmp_path: Path
) -> None:
    fake.holds = lambda body: body["input_ids"][1] >= SIZE  # whoever is not told never answers
    position = collect(sampler, 0, Position()).position
    assert [carried.place for carried in position.carried] == [2, 3]
    until(lambda: fake.num_requests == 2 * SIZE * N)
    sampler.means.fleet.update_weights(FolderWeights(tmp_path, "v1"))
    until(lambda: fake.num_requests == 3 * SIZE * N)
    fake.holds = lambda body: False
    fake.bodies.clear()
    found = collect(sampler, 1, position, first=1)
    assert sampler.means.fleet.stats.num_lost_requests == 0
    assert [group.problem.key for group in found.groups] == ["2", "3"]
    assert [body["input_ids"][1] for body in fake.bodies[: 2 * N]] == [2] * N + [3] * N
    assert [thread.name for thread in threading.enumerate()].count(SAMPLER) == 1


def test_what_goes_wrong_in_a_stage_that_a_rule_has_ended_is_nobodys_for_its_problems_are_asked_for_again(
    sampler: Sampler, fake: FakeServer, tmp_path: Path
) -> None:
    position = collect(sampler, 0, Position()).position
    until_asked(fake, 2)
    refuse(fake, {4, 5})
    sampler.means.fleet.update_weights(FolderWeights(tmp_path, "v1"))
    assert sampler.sampling is not None
    assert "rollout.max_refused = 0" in str(sampler.sampling.ended.exception(60))
    refuse(fake, set())
    found = collect(sampler, 1, position, first=1)
    assert [group.problem.key for group in found.groups] == ["2", "3"]
    assert sampler.num_refused == 0


def test_refusals_of_the_steps_that_were_taken_count_against_the_next_stages_budget(
    sampler: Sampler, fake: FakeServer
) -> None:
    sampler.means = replace(sampler.means, section=sampler.means.section.model_copy(update={"max_refused": 1}))
    refuse(fake, {0})
    position = collect(sampler, 0, Position()).position
    assert sampler.num_refused == 1
    refuse(fake, {position.carried[0].place})
    with pytest.raises(RolloutError, match=r"rollout.max_refused = 1 prompts of a run is used up"):
        sampler.collect(turn_at(1, first=1), position)


def test_weights_that_come_while_a_stage_begins_are_heard_of(
    sampler: Sampler, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Pool):
        """By the time that it is there servers have other weights."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            sampler.means.fleet.update_weights(FolderWeights(tmp_path, "v1"))

    monkeypatch.setattr(sampler_module, "Pool", Slow)
    collect(sampler, 1, Position(), first=1)
    until_asked(fake, 2)


def test_whoever_ends_the_run_waits_for_nobody_and_nothing_goes_on(sampler: Sampler, fake: FakeServer) -> None:
    fake.holds = lambda body: body["input_ids"][1] >= SIZE
    collect(sampler, 0, Position())
    thread = sampler._thread
    assert thread is not None and thread.daemon and thread.is_alive()
    sampler.close()
    thread.join(60)
    assert not thread.is_alive()
    until(lambda: sampler.means.fleet.stats.num_in_flight == 0)


def test_what_ends_the_thread_is_told_where_the_trainer_waits_and_ever_after(
    sampler: Sampler, fake: FakeServer
) -> None:
    fake.faults = [lambda reply: web.Response(status=400, text="too long")]
    refused = pytest.raises(RolloutError, match=r"too long; rollout.max_refused = 0 prompts of a run is used up")
    turn = turn_of(0, STAGE)  # which opens no stage
    with refused:
        sampler.collect(turn, Position())
    with refused:
        sampler.collect(turn, Position())


def test_a_fleet_that_can_be_used_no_longer_ends_the_wait_of_the_trainer_also_where_nothing_is_in_flight(
    sampler: Sampler, fake: FakeServer
) -> None:
    collect(sampler, 0, Position())
    until_asked(fake, 2)
    until(lambda: sampler.means.fleet.stats.num_in_flight == 0)
    sampler.means.fleet._fail(RolloutError("weights 'v1' did not reach every server"))
    assert sampler._thread is not None
    sampler._thread.join(60)
    with pytest.raises(RolloutError, match="weights 'v1' did not reach every server"):
        sampler.collect(turn_at(1), Position())
