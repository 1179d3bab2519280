"""What one step asks for: fields of its requests, how many problems, what graders are told, what a refusal costs."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.stream import Refused
from egrc_mega.seeds import derive_seed
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_stream import (
    CAP,
    RIGHT,
    SECTION,
    WANTED,
    WRONG,
    FakeStream,
    N,
    Servers,
    collector_of,
    place_of,
    turn_of,
)
from egrc_mega.types import FinishReason

START = Position()


def test_a_request_has_the_stages_sampling_the_problems_prompt_and_a_seed_of_its_place() -> None:
    servers = Servers(random.Random(0))
    collector_of(servers).collect(turn_of(3), Position(cursor=10))
    for i, request in enumerate(servers.sent):
        number, n = divmod(i, N)
        sampling = request.sampling
        assert (sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (0.9, 0.8, CAP)
        assert sampling.stop_token_ids == (2, 3)
        assert (request.prompt_id, place_of(request)) == (f"problem{10 + number}", 10 + number)
        assert request.seed == derive_seed(1, "rollout", 3, number, n)
        assert request.rid == f"step000003-prompt{number:05d}-sample{n:04d}"


@pytest.mark.parametrize(("limit", "asked"), [(1.0, 4), (1.3, 5), (2.0, 8), (3.9, 15)])
def test_dynamic_sampling_asks_for_no_more_than_its_limit(limit: float, asked: int) -> None:
    stage = SECTION.model_copy(update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": "no_advantage"})})
    servers = Servers(random.Random(2), right=1.0)
    with pytest.raises(RolloutError, match=rf"{asked} prompts gave 0 of {WANTED} groups .* in step 1;"):
        collector_of(servers, dynamic_sampling_limit=limit, over_sampling=1.6).collect(turn_of(0, stage), Position())
    assert len(servers.sent) == asked * N


@pytest.mark.parametrize("over", [1.0, 1.6, 2.0])
def test_what_is_missing_after_groups_were_dropped_is_over_sampled_as_the_step_was(
    over: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SECTION.model_copy(update={"rollout": SECTION.rollout.model_copy(update={"drop_groups": "no_advantage"})})
    servers = Servers(random.Random(2))
    asked: list[int] = []
    add = FakeStream.add

    def noting(self: FakeStream, requests: Any, begun: Any = None) -> None:
        add(self, requests, begun)
        asked.append(len(requests) // N)

    def all_at_once(self: FakeStream) -> list[Any]:
        found, self.open = self.open, []
        # of the first two rounds every answer is wrong, then there are right and wrong ones
        rounds = sum(count > 0 for count in asked)
        right = [rounds > 2 and request.rid.endswith("0000") for request in found]
        return [
            self.longer(request, CAP, RIGHT if is_right else WRONG, FinishReason.STOP)
            for request, is_right in zip(found, right, strict=True)
        ]

    monkeypatch.setattr(FakeStream, "add", noting)
    monkeypatch.setattr(FakeStream, "take", all_at_once)
    found = collector_of(servers, over_sampling=over, dynamic_sampling_limit=50).collect(turn_of(0, stage), START)
    assert len(found.groups) == WANTED
    assert [count for count in asked if count] == [math.ceil(WANTED * over)] * 3


def test_graders_are_told_what_the_method_needs_and_get_a_group_as_it_was_drawn() -> None:
    servers = Servers(random.Random(0))
    collector, told = collector_of(servers), []
    plain = collector.means.judge

    def noting(drawn: Sequence[Any], needs: frozenset[str]) -> list[Any]:
        told.append(needs)
        for one in drawn:
            assert (one.problem.key, one.completion.rid) == (str(place_of(one.request)), one.request.rid)
        return plain(drawn, needs)

    collector.means = replace(collector.means, judge=noting)
    turn = turn_of(0)
    turn.method.needs = frozenset({"token_ends"})  # type: ignore[misc]
    collector.collect(turn, START)
    assert set(told) == {frozenset({"token_ends"})}


@pytest.mark.parametrize(("budget", "fails"), [(0, True), (3, True), (4, False)])
def test_the_budget_of_refusals_is_that_of_the_run(budget: int, fails: bool) -> None:
    servers = Servers(random.Random(2))
    collector = collector_of(servers, max_refused=budget)
    position = Position()
    outcome = FakeStream.outcome
    try:
        # two problems of each step are refused
        FakeStream.outcome = lambda self, r: Refused(r, "too long") if place_of(r) % 4 < 2 else outcome(self, r)  # type: ignore[method-assign]
        for number in range(2):
            position = collector.collect(turn_of(number), position).position
        assert not fails and collector.num_refused == 4
    except RolloutError as error:
        assert fails
        assert f"too long; rollout.max_refused = {budget} prompts of a run is used up" in str(error)
    finally:
        FakeStream.outcome = outcome  # type: ignore[method-assign]
