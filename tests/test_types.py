"""What samples and groups say of themselves."""

import pytest

from egrc_mega.errors import DataError
from egrc_mega.testing.samples import PROBLEM, make_group, make_sample
from egrc_mega.types import FinishReason, Grade, Problem


@pytest.mark.parametrize("grade", Grade)
@pytest.mark.parametrize("finish", FinishReason)
def test_only_the_cap_truncates_and_only_what_is_right_and_was_not_cut_counts(
    grade: Grade, finish: FinishReason
) -> None:
    sample = make_sample(range(5), grade=grade, finish=finish)
    assert sample.completion.truncated is (finish is FinishReason.LENGTH)
    assert sample.right is (grade is Grade.RIGHT and finish is not FinishReason.LENGTH)
    assert sample.length == 5


def test_the_accuracy_of_a_group_is_over_what_was_graded() -> None:
    right, wrong, ungraded = (make_sample(range(3), grade=grade) for grade in Grade)
    cut = make_sample(range(3), finish=FinishReason.LENGTH)
    assert make_group([right, wrong, ungraded]).accuracy == 0.5
    assert make_group([right, cut, wrong, ungraded, right]).accuracy == 0.5
    assert make_group([ungraded, ungraded]).accuracy == 0.0


def test_a_fact_that_a_row_lacks_is_an_error_that_names_it() -> None:
    problem = Problem(key="k", text="", answer="", facts={"level": 3.0})
    assert problem.fact("level") == 3.0
    with pytest.raises(DataError, match=r"data\.facts: \['level'\] lacks 'accuracy'"):
        problem.fact("accuracy")
    with pytest.raises(DataError):
        PROBLEM.fact("level")
