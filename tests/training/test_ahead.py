"""Sampling ahead: what was begun is what the next step gets, errors included; a stage that opens begins anew."""

import threading
from concurrent.futures import wait
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.stages.state import Position
from egrc_mega.training.ahead import Ahead
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.turn import Turn

STAGE = ExploreSection(steps=3)


def turn_of(step: int, step_in_stage: int | None = None) -> Turn:
    method = build_method(STAGE)
    own = step if step_in_stage is None else step_in_stage
    return Turn(step, own, STAGE, method, View(step=own, state=method.State(), seed=4), f"v{step}")


class Collecting:
    """Takes notes of what it was asked for, and in which thread."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.threads: list[str] = []
        self.error = error
        self.num_refused = 0

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        self.asked.append((turn.step, position.cursor))
        self.threads.append(threading.current_thread().name)
        self.num_refused += 1
        if self.error:
            raise self.error
        return StepGroups([], Position(cursor=position.cursor + 2), {"step": turn.step})


def test_a_step_that_was_begun_is_collected_once_in_a_thread_beside_the_training() -> None:
    collecting = Collecting()
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    ahead.begin(turn_of(1), Position(cursor=2))
    found = ahead.collect(turn_of(1), Position(cursor=2))
    assert (found.position.cursor, found.counts) == (4, {"step": 1})
    assert (collecting.asked, collecting.threads) == ([(1, 2)], ["ahead"])


def test_without_a_begin_the_step_is_collected_there_and_then() -> None:
    collecting = Collecting()
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    for step in range(2):
        assert ahead.collect(turn_of(step), Position(cursor=7)).position.cursor == 9
    assert collecting.asked == [(0, 7), (1, 7)]
    assert set(collecting.threads) == {threading.current_thread().name}


def test_what_was_begun_is_taken_by_one_step_only() -> None:
    collecting = Collecting()
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    ahead.begin(turn_of(1), Position(cursor=2))
    ahead.collect(turn_of(1), Position(cursor=2))
    assert ahead.collect(turn_of(2), Position(cursor=4)).counts == {"step": 2}


def test_what_was_begun_for_a_stage_that_ended_is_dropped_and_its_problems_are_asked_for_again() -> None:
    collecting = Collecting()
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    ahead.begin(turn_of(2), Position(cursor=4))
    found = ahead.collect(turn_of(2, step_in_stage=0), Position(cursor=4))
    assert found.position.cursor == 6
    assert (collecting.asked, collecting.threads[0]) == ([(2, 4), (2, 4)], "ahead")


def test_what_was_refused_in_a_batch_that_is_dropped_counts_once_for_it_is_asked_for_again() -> None:
    collecting = Collecting()
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    ahead.begin(turn_of(2), Position(cursor=4))
    ahead.collect(turn_of(2, step_in_stage=0), Position(cursor=4))
    assert collecting.num_refused == 1


def test_an_error_in_a_batch_that_is_dropped_is_nobodys() -> None:
    collecting = Collecting(RolloutError("no group of the stage that ended teaches anything"))
    ahead = Ahead(collecting)  # type: ignore[arg-type]
    ahead.begin(turn_of(2), Position(cursor=4))
    assert ahead._begun is not None
    wait([ahead._begun])
    collecting.error = None
    assert ahead.collect(turn_of(2, step_in_stage=0), Position(cursor=4)).position.cursor == 6


def test_an_error_of_the_thread_is_the_steps() -> None:
    ahead = Ahead(Collecting(RolloutError("lost")))  # type: ignore[arg-type]
    ahead.begin(turn_of(1), Position())
    with pytest.raises(RolloutError, match="lost"):
        ahead.collect(turn_of(1), Position())


def test_the_next_turn_is_planned_with_what_is_known_and_there_is_none_after_the_last() -> None:
    state: Any = object()
    turn = Turn(10, 1, STAGE, build_method(STAGE), View(step=1, state=state, seed=4), "v10")
    following = turn.next
    assert following is not None
    assert (following.step, following.step_in_stage, following.version) == (11, 2, "v11")
    assert following.view == View(step=2, state=state, seed=4)
    assert (following.stage, following.method) == (turn.stage, turn.method)
    assert following.next is None
    assert not following.opens_stage and turn_of(3, step_in_stage=0).opens_stage
