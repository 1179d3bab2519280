"""Rules of the ladder that no list of cases shows: profiles, reasons, what is judged at sight, determinism."""

import pytest

from egrc_mega.errors import ConfigError
from egrc_mega.grading.ladder import MAX_CHARACTERS, climbed, judge, judge_at_sight
from egrc_mega.grading.verdicts import Reason
from egrc_mega.types import NO_HINTS, Grade, Hints


def grade(answer: str, gold: str, **hints: str) -> str:
    return judge(answer, gold, Hints(**hints)).grade.value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("", "4", Reason.EMPTY),
        ("7" * (MAX_CHARACTERS + 1), "4", Reason.TOO_LONG),
        ("4", "4", Reason.EQUAL_TEXT),
        ("8/2", "4", Reason.NUMERAL),
        ("5", "4", Reason.NUMERAL),
        ("blue", "red", Reason.WORDS),
        ("5 \\text{ m}", "5 \\text{ cm}", Reason.UNIT),
        ("y=5", "x=5", Reason.NAME),
        ("2+2", "4", Reason.UNEVALUATED),
        ("? 4", "4", Reason.DOES_NOT_PARSE),
        ("\\sqrt{8}", "2\\sqrt2", Reason.SAMPLED),
        ("9^{9^{9^9}}", "4", Reason.TOO_BIG),
        ("\\frac{x^2}{2}", "\\int_0^x t\\,dt", Reason.MATH_VERIFY),
        ("(1,2,3)", "(1,2)", Reason.STRUCTURE),
        ("4", "? 4", Reason.BAD_GOLD),
    ],
)
def test_every_verdict_says_which_rung_decided(answer: str, gold: str, reason: Reason) -> None:
    assert judge(answer, gold).reason == reason


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("3", "3", Grade.RIGHT),
        ("03", "3", Grade.RIGHT),
        ("3.0", "3", Grade.RIGHT),
        ("\\frac12", "0.5", Grade.RIGHT),
        ("2, 1", "1, 2", Grade.RIGHT),
        ("(1,\\frac{9}{2})", "(1,4.5)", Grade.RIGHT),
        ("4", "5", Grade.WRONG),
        ("? 4", "4", Grade.WRONG),
        ("\\sqrt{2}", "4", None),
        ("x+1", "1+x", None),
    ],
)
def test_only_what_must_be_evaluated_is_left_to_a_grading_process(
    answer: str, gold: str, verdict: Grade | None
) -> None:
    found = judge_at_sight(answer, gold)
    assert (found.grade if found else None) == verdict
    assert found is None or found == judge(answer, gold)


@pytest.mark.parametrize(
    "answer", ["12!", "2^{10}", "200+4", "\\frac{8}{2}", "3 \\cdot 4", "\\sqrt{16}", "\\binom{4}{2}"]
)
@pytest.mark.parametrize("profile", ["aime", "amc", "gsm8k"])
def test_sets_of_integers_want_digits(answer: str, profile: str) -> None:
    value = {"12!": "479001600", "2^{10}": "1024", "200+4": "204", "3 \\cdot 4": "12", "\\binom{4}{2}": "6"}
    gold = value.get(answer, "4")
    if profile == "aime" and len(gold) > 3:
        pytest.skip("no gold of this set")
    assert judge(answer, gold, Hints(profile=profile)) == judge("12!", "4", Hints(profile=profile))
    assert judge(answer, gold, Hints(profile=profile)).reason == Reason.UNEVALUATED


@pytest.mark.parametrize(
    ("answer", "gold", "default", "minerva"),
    [
        ("20.4", "20.39", "wrong", "right"),
        ("1.571", "1.6", "wrong", "right"),
        ("\\frac{1}{3}", "0.33", "wrong", "right"),
        ("\\frac{\\pi}{2}", "1.6", "wrong", "right"),
        ("1.4142", "\\sqrt{2}", "wrong", "right"),
        ("5", "4", "wrong", "wrong"),
        ("4.02", "4", "wrong", "wrong"),
        ("21", "20.39", "wrong", "wrong"),
        ("6.63 \\times 10^{-34}", "6.62 \\times 10^{-34}", "wrong", "right"),
        ("6.62 \\times 10^{-33}", "6.62 \\times 10^{-34}", "wrong", "wrong"),
    ],
)
def test_only_minerva_has_a_relative_tolerance(answer: str, gold: str, default: str, minerva: str) -> None:
    assert (grade(answer, gold), grade(answer, gold, profile="minerva")) == (default, minerva)


def test_the_error_of_a_row_is_an_absolute_tolerance() -> None:
    assert [grade(answer, "4.2", error="1e-1") for answer in ("4.29", "4.11", "4.31", "\\sqrt{18}")] == [
        "right",
        "right",
        "wrong",
        "right",
    ]


def test_any_alternative_of_minerva_is_right_and_all_parts_of_a_list_are_wanted() -> None:
    golds = '["6630.65\\n", "6630\\n"]'
    assert [grade(answer, golds, profile="minerva") for answer in ("6630", "6630.65", "9")] == [
        "right",
        "right",
        "wrong",
    ]
    assert [grade(answer, golds) for answer in ("6630", "6630, 6630.65")] == ["wrong", "right"]


def test_the_unit_of_a_row_may_be_written_or_left_out_but_no_other() -> None:
    assert [grade(a, "5", unit="km/h") for a in ("5", "5 \\text{ km/h}", "5\\text{ m/s}")] == [
        "right",
        "right",
        "wrong",
    ]


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ConfigError, match=r"grading\.profile: 'maths' is unknown; choose from default, aime"):
        judge("4", "4", Hints(profile="maths"))


def test_the_rungs_can_be_read() -> None:
    _verdict, steps = climbed("\\sqrt{8}", "2\\sqrt2", NO_HINTS, may_evaluate=True)
    assert steps == ["gold: closed form, 2\\sqrt 2", "answer: \\sqrt{8}", "sampled: equal"]


@pytest.mark.parametrize(
    "answer",
    [
        "\\boxed{" * 100,
        "(" * 990,
        "{" * 990,
        "-" * 990,
        "\\sqrt" * 190,
        "1," * 490,
        "x_" * 490,
        "|" * 990,
        "\\text{" * 160,
    ],
)
def test_an_answer_that_repeats_itself_is_wrong(answer: str) -> None:
    for gold in ("4", "x+1", "1,2", "(1,2)", "[1,2)", "x<2", "\\text{red}", "x^2+y^2=1", "1:2"):
        assert grade(answer, gold) == "wrong"
