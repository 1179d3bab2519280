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
        ("</think> $\\boxed 7$", "7"),
        ("</think> \\boxed7", "7"),
        ("</think> \\boxed {7}", "7"),
        ("</think> \\fbox{7}", "7"),
        ("</think> put it in \\boxed : so \\boxed{8}", "8"),
        ("", None),
    ],
)
def test_the_answer_is_the_last_balanced_box_after_the_last_end_of_thinking(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1}, \\boxed{2}", "1, 2"),
        ("$\\boxed{1}$ and $\\boxed{2}$", "1, 2"),
        ("\\[\\boxed{1} \\quad \\text{or} \\quad \\boxed{2}\\]", "1, 2"),
        ("\\boxed{1}, \\boxed{2}, \\boxed{3}", "1, 2, 3"),
        ("\\boxed{\\frac13} \\approx \\boxed{0.33}", "\\frac13 \\approx 0.33"),
        ("\\boxed{1} is not it, but \\boxed{2}", "2"),
        ("\\boxed{1}" + " " * 100 + "\\boxed{2}", "2"),
    ],
)
def test_boxes_side_by_side_are_one_answer_of_several_parts(text: str, answer: str) -> None:
    assert extract_answer(f"</think> {text}") == answer


@pytest.mark.parametrize(
    ("text", "prompt_thinks", "answer"),
    [
        ("\\boxed{1}", False, "1"),
        ("\\boxed{1}", True, None),
        ("<think> \\boxed{1}", False, None),
        ("<think> \\boxed{1} </think> \\boxed{2}", False, "2"),
        ("\\boxed{1} </think> \\boxed{2}", False, "2"),
    ],
)
def test_an_end_of_thinking_is_demanded_only_where_thinking_was_opened(
    text: str, prompt_thinks: bool, answer: str | None
) -> None:
    assert extract_answer(text, prompt_thinks) == answer


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\\boxed{3}", True), ("a </think> \\boxed{3}", False), ("<think> a </think> \\boxed{3}", True), ("3", False)],
)
def test_without_an_open_think_in_the_prompt_the_format_gate_wants_no_end_of_thinking(
    text: str, expected: bool
) -> None:
    assert is_well_formed(text, True, prompt_thinks=False) is expected
