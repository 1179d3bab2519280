"""The account of every problem's fate: what is wrong with one is told."""

from typing import Any

import pytest

from egrc_mega.stages.state import Carried, Position
from egrc_mega.training.fates import fate_problems


@pytest.mark.parametrize(
    ("events", "position", "problem"),
    [
        (
            [{"trained": [0]}, {"trained": [0]}],
            Position(cursor=1),
            "problem 0 has 2 fates: trained in step 1 and",
        ),
        ([{"trained": [0]}], Position(cursor=2), "problem 1 is lost: neither trained, dropped nor refused by step 1"),
        ([{"dropped": [1]}], Position(cursor=1), "problem 1 was never asked for, and is dropped in step 1"),
        (
            [{"refused": [0]}],
            Position(cursor=1, carried=(Carried(place=0, age=1),)),
            "problem 0 has 2 fates: refused in step 1 and open after step 1",
        ),
    ],
)
def test_a_problem_without_a_fate_or_with_two_is_told(events: list[Any], position: Position, problem: str) -> None:
    whole = [{"trained": [], "dropped": [], "refused": []} | event for event in events]
    assert any(told.startswith(problem) for told in fate_problems(whole, position))
