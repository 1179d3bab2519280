"""What is right and what is wrong, row by row; math-verify runs in this process, with harmless expressions only."""

import math_verify
import pytest

from egrc_mega.grading.verify import MAX_CHARACTERS, judge, judge_at_sight
from egrc_mega.types import Grade


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("142", "142.0"),
        ("025", "25"),
        ("25", "025"),
        ("+7", "7"),
        ("-0", "0"),
        ("50\\%", "50"),
        ("50\\%", "0.5"),
        ("10 cm", "10"),
        ("10\\text{ cm}", "10"),
        ("x\\in[2,5)", "[2,5)"),
        ("[2, 5)", "[2,5)"),
        ("\\frac{2}{4}", "\\frac12"),
        ("3, -2", "-2, 3"),
        ("(4,5,7),(1,8,19),(2,7,13)", "(1,8,19),(2,7,13),(4,5,7)"),
        ("1,000", "1000"),
        ("x_1 = 3", "3"),
        ("\\vec{v}_1 = 3", "3"),
        ("$4$.", "4"),
        ("2516_{8}", "2516_8"),
        ("\\text{(B)}", "B"),
    ],
)
def test_equal_answers_are_right(answer: str, gold: str) -> None:
    assert judge(answer, gold) is Grade.RIGHT


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3", "4"),
        ("(2,5)", "[2,5)"),
        ("0.33", "\\frac13"),
        ("11_2", "11"),
        ("11_{2}", "11"),
        ("(11)_2", "11"),
        ("1A_{16}", "1A"),
        ("11_2", "11_3"),
        ("11", "11_2"),
        ("1 2", "12"),
        ("1  2", "12"),
        ("0.333...", "0.333"),
        ("3, -2, 1", "-2, 3"),
        ("", "4"),
        ("\\frac{", "4"),
        ("}{", "4"),
        ("hello", "4"),
    ],
)
def test_different_answers_are_wrong(answer: str, gold: str) -> None:
    assert judge(answer, gold) is Grade.WRONG


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("2\\le x<5", "[2,5)"), ("870000000", "8.7\\times10^8"), ("18 dollars", "18")],
)
def test_what_math_verify_is_known_to_miss_is_wrong_here_too(answer: str, gold: str) -> None:
    assert judge(answer, gold) is Grade.WRONG


def test_an_answer_of_more_than_a_thousand_characters_is_wrong_even_if_it_is_the_gold() -> None:
    assert judge("7" * MAX_CHARACTERS, "7" * MAX_CHARACTERS) is Grade.RIGHT
    assert judge("7" * (MAX_CHARACTERS + 1), "7" * (MAX_CHARACTERS + 1)) is Grade.WRONG


@pytest.mark.parametrize("gold", ["\\frac{", "}{", "8" * (MAX_CHARACTERS + 1)])
def test_a_gold_that_cannot_be_parsed_is_ungraded(gold: str) -> None:
    assert judge("4", gold) is Grade.UNGRADED


def test_the_same_text_is_right_even_where_it_cannot_be_parsed() -> None:
    assert judge("\\frac{", "\\frac{") is Grade.RIGHT


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, RecursionError, ZeroDivisionError])
def test_a_verifier_that_fails_gives_no_verdict(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> bool:
        raise error

    monkeypatch.setattr(math_verify, "verify", fail)
    assert judge("\\frac12", "\\frac{2}{4}") is Grade.UNGRADED


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_a_parser_without_memory_or_stack_gives_no_verdict(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> list[object]:
        raise error

    monkeypatch.setattr(math_verify, "parse", fail)
    assert judge("\\frac12", "\\frac{2}{4}") is Grade.UNGRADED


def test_the_timeouts_of_math_verify_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    parse, verify = math_verify.parse, math_verify.verify

    def spied_parse(*args: object, **options: object) -> object:
        seen.append(options["parsing_timeout"])
        return parse(*args, **options)

    def spied_verify(*args: object, **options: object) -> object:
        seen.append(options["timeout_seconds"])
        return verify(*args, **options)

    monkeypatch.setattr(math_verify, "parse", spied_parse)
    monkeypatch.setattr(math_verify, "verify", spied_verify)
    assert judge("\\frac12", "\\frac{2}{4}") is Grade.RIGHT
    assert seen == [None, None, None]


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("3", "3", Grade.RIGHT),
        ("03", "3", Grade.RIGHT),
        ("3", "4", Grade.WRONG),
        ("- 3", "-3", Grade.RIGHT),
        ("\\frac12", "\\frac{1}{2}", None),
        ("3.0", "3", None),
        ("9^{9^{9^9}}", "4", None),
    ],
)
def test_only_texts_and_integers_are_judged_at_sight(answer: str, gold: str, verdict: Grade | None) -> None:
    assert judge_at_sight(answer, gold) is verdict
