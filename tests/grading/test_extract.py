"""Where the answer is found, and the format gate."""

import time

import pytest

from egrc_mega.grading.extract import extract_answer, is_well_formed


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("hm </think> \\boxed{ 3 } <eos>", "3"),
        ("</think> \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("</think> \\boxed{3} no, \\boxed{4}", "4"),
        ("</think> \\boxed{4} and an unclosed \\boxed{\\frac{1}{2}", "4"),
        ("</think> an unclosed \\boxed{ before \\boxed{5}", "5"),
        ("</think> a stray } and { before \\boxed{6}", "6"),
        ("</think> \\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("</think> \\boxed{a\\}", None),
        ("</think> \\boxed{\\boxed{7}}", "7"),
        ("</think> \\\\boxed{8}", "8"),
        ("</think> \\boxed{two\nlines}", "two\nlines"),
        ("</think> \\boxed{}", ""),
        ("\\boxed{1} </think> no box here", None),
        ("\\boxed{1} and thinking never ended", None),
        ("\\boxed{1} </think> \\boxed{2} </think> \\boxed{3}", "3"),
        ("\\boxed{1} </think> \\boxed{2} </think> none", None),
        ("</think> \\boxed 7", None),
        ("</think> \\fbox{7}", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_balanced_box_after_the_last_end_of_thinking(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("looped", ["\\boxed{", "{", "\\boxed{}", "\\", "\\\\boxed{ x } "])
def test_a_response_that_loops_until_its_cap_is_searched_in_linear_time(looped: str) -> None:
    started = time.monotonic()
    extract_answer("</think>" + looped * 100_000)
    assert time.monotonic() - started < 5, "a quadratic search would take minutes"


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("a </think> \\boxed{3}", True, True),
        ("a </think> \\boxed{3}", False, False),
        ("a </think> b </think> \\boxed{3}", True, False),
        ("a \\boxed{3}", True, False),
        ("a \\boxed{3} </think> done", True, False),
        ("a </think> \\boxed{3", True, False),
    ],
)
def test_the_format_gate_wants_a_finished_text_with_one_end_of_thinking_and_a_box(
    text: str, finished: bool, expected: bool
) -> None:
    assert is_well_formed(text, finished) is expected
