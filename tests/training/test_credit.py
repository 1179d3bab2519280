"""An answer of a method that cannot be trained on is refused by name: method, problem and sample."""

from typing import Any

import numpy as np
import pytest

from egrc_mega.errors import MethodError
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.records import DROPPED, Credit, Edit, View
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.training.credit import credited
from egrc_mega.training.turn import Turn
from egrc_mega.types import Grade

SECTION = ExploreSection(loss={"class_weights": (1.0, 0.5)})
GROUPS = [make_group([make_sample(range(3))]), make_group([make_sample(range(4)), make_sample(range(2))])]
UNGRADED = [make_group([make_sample(range(3), grade=Grade.UNGRADED)])]


class Saying(Method[ExploreSection, NoState]):
    """Says what it is told, and notes how often it was asked."""

    def __init__(self, rows: list[list[Credit]]) -> None:
        super().__init__(SECTION)
        self.rows, self.views = rows, []

    def credit(self, groups: Any, view: View) -> list[list[Credit]]:
        self.views.append(view)
        return self.rows


def turn_of(rows: list[list[Credit]]) -> Turn:
    return Turn(7, 3, SECTION, Saying(rows), View(step=3, state=NoState(), seed=1), "v7")


def edit(first_changed: int, size: int = 3) -> Credit:
    return Credit(edit=Edit(output_ids=np.arange(size), first_changed=first_changed))


def classes(*numbers: int) -> Credit:
    return Credit(token_class=np.array(numbers, int))


def test_the_method_is_asked_once_with_its_view_and_its_answer_is_what_counts() -> None:
    rows = [[Credit(advantage=0.5)], [DROPPED, Credit(advantage=np.array([1.0, -1.0]))]]
    turn = turn_of(rows)
    assert credited(turn, GROUPS) is rows
    assert turn.method.views == [turn.view]


@pytest.mark.parametrize("rows", [[], [[DROPPED]], [[DROPPED], [DROPPED]], [[DROPPED], [DROPPED] * 3]])
def test_there_is_one_credit_for_each_sample(rows: list[list[Credit]]) -> None:
    with pytest.raises(MethodError, match=r"method explore: credit gave rows of \[.*\] credits for groups of \[1, 2\]"):
        credited(turn_of(rows), GROUPS)


@pytest.mark.parametrize("answer", [None, [None, None], [[None], [DROPPED, DROPPED]], "credits"])
def test_what_is_no_list_of_rows_is_refused_with_the_method_s_name(answer: Any) -> None:
    with pytest.raises(MethodError, match="method explore: credit must give a list of Credit for each group"):
        credited(turn_of(answer), GROUPS)


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        (Credit(advantage=float("nan")), "its advantage is not finite: nan"),
        (Credit(advantage=float("inf"), kept=False), "its advantage is not finite: inf"),
        (Credit(advantage=np.array([0.0, -np.inf])), "its advantage is not finite"),
        (Credit(advantage="1"), "its advantage is not finite: '1'"),  # type: ignore[arg-type]
        (Credit(reward=float("nan")), "its reward is not finite: nan"),
        (Credit(terms={"length": float("inf")}), "its reward term length is not finite: inf"),
        (Credit(forced_logprob=float("nan")), "its forced_logprob is not finite: nan"),
        (Credit(token_class=np.zeros(2)), "its token_class has dtype float64; give whole numbers"),
        (Credit(advantage=np.zeros(3)), r"its advantage has shape \(3,\); give one number, or one for each of 2"),
        (Credit(advantage=np.zeros(1)), r"its advantage has shape \(1,\)"),
        (Credit(advantage=np.zeros((2, 1))), r"its advantage has shape \(2, 1\)"),
        (edit(-1), "its edit says first_changed -1 of 3 tokens"),
        (edit(3), "its edit says first_changed 3 of 3 tokens"),  # the sample has two
        (edit(2, size=1), "its edit says first_changed 2 of 1 tokens"),
        (classes(0), "its token_class has 1 entries for 2 tokens"),
        (classes(0, 2), r"its token_class names classes that loss.class_weights \(2 of them\) does not have"),
        (classes(-1, 0), "its token_class names classes"),
    ],
)
def test_a_credit_that_does_not_fit_its_sample_is_refused_with_its_place(credit: Credit, message: str) -> None:
    with pytest.raises(MethodError, match=rf"method explore, problem test:1, sample 1: {message}"):
        credited(turn_of([[DROPPED], [DROPPED, credit]]), GROUPS)


@pytest.mark.parametrize(
    "credit",
    [
        Credit(advantage=np.array([1.0, 2.0])),
        edit(0, size=0),
        edit(2, size=2),
        edit(0, size=5),
        classes(0, 1),
        Credit(
            advantage=np.zeros(3), edit=Edit(output_ids=np.arange(3), first_changed=1), token_class=np.zeros(3, int)
        ),
    ],
)
def test_what_fits_is_taken(credit: Credit) -> None:
    assert credited(turn_of([[DROPPED], [DROPPED, credit]]), GROUPS)[1][1] is credit


def test_after_an_edit_values_are_one_for_each_edited_token() -> None:
    short = Edit(output_ids=np.arange(1), first_changed=0)
    for credit in (Credit(advantage=np.zeros(2), edit=short), Credit(token_class=np.zeros(2, int), edit=short)):
        with pytest.raises(MethodError, match="1 tokens"):
            credited(turn_of([[DROPPED], [DROPPED, credit]]), GROUPS)


def test_an_ungraded_sample_cannot_be_kept() -> None:
    with pytest.raises(MethodError, match="sample 0: it is ungraded and cannot be kept; give it the credit DROPPED"):
        credited(turn_of([[Credit(advantage=1.0)]]), UNGRADED)
    assert credited(turn_of([[DROPPED]]), UNGRADED) == [[DROPPED]]
