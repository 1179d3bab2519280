"""The graders of published work: as strict, or as lax, as theirs."""

import pytest

from egrc_mega.grading.compat import DeepScaleR, DeepScaleRSection, Thinkless, ThinklessSection
from egrc_mega.types import NO_HINTS

DEEPSCALER, THINKLESS = DeepScaleR(DeepScaleRSection()), Thinkless(ThinklessSection())


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("142", "142.0", True),
        ("25", "025", True),
        ("50\\%", "50", True),
        ("50\\%", "0.5", False),
        ("10\\text{ cm}", "10", True),
        ("(2,5)", "[2,5)", False),
        ("x\\in[2,5)", "[2,5)", False),
        ("\\frac{2}{4}", "\\frac12", False),
        ("3, -2", "-2, 3", False),
        ("0.5", "\\frac{1}{2}", True),
        ("x = 5", "5", True),
        ("2(n+1)", "2n+2", True),
        ("2n+3", "2n+2", False),
        ("(1,2)", "(1,2)", True),
        ("(1,3)", "(1,2)", False),
        ("__import__('os')", "4", False),
    ],
)
def test_deepscaler_judges_as_its_table_says(answer: str, gold: str, expected: bool) -> None:
    assert (DEEPSCALER.judge(answer, gold, NO_HINTS).grade == "right") is expected


def test_deepscaler_takes_the_last_box_between_the_first_two_ends_of_thinking() -> None:
    assert DEEPSCALER.extract("\\boxed{1} </think> \\boxed{2} \\text{or not} \\boxed{3} </think> \\boxed{4}") == "3"
    assert DEEPSCALER.extract("\\boxed{1}", prompt_thinks=False) is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"), [("3 \\sqrt{2}", "3", True), ("\\frac{2}{4}", "\\frac12", False), ("x", "x", True)]
)
def test_thinkless_lets_the_first_numbers_decide(answer: str, gold: str, expected: bool) -> None:
    assert (THINKLESS.judge(answer, gold, NO_HINTS).grade == "right") is expected


def test_thinkless_finds_an_answer_in_the_thinking_and_without_a_box() -> None:
    assert THINKLESS.extract("\\boxed{1} never ended") == "1"
    assert THINKLESS.extract("it is 12.5, surely") == "12.5"
    assert THINKLESS.extract("no number") is None
