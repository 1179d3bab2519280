"""What texts show without a model: steps, connectors, loops, and their sums by verdict."""

import random
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from egrc_mega.diagnosis import loops
from egrc_mega.diagnosis.bars import MAX_PROBLEMS, Bars, paired
from egrc_mega.diagnosis.connectors import CONNECTORS, connectors_in
from egrc_mega.diagnosis.loops import MIN_SPAN, find_loop, repetition, words_of
from egrc_mega.diagnosis.text_totals import TextTotals
from egrc_mega.diagnosis.texts import facts_of, num_steps
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.types import Grade

PROSE = " ".join(f"Then we add {i} to {i * i} and get {i + i * i}." for i in range(400))


def response(text: str, **changes: Any) -> SampledResponse:
    return SampledResponse(**{"place": "here, row 1", "problem_id": "p", "prompt": "?", "text": text} | changes)


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("\n\n \n\n", 0), ("one", 1), ("one\n\ntwo\nstill two", 2), ("\n\none\n\n\n\ntwo\n\n", 2)],
)
def test_steps_are_the_parts_between_empty_lines_in_which_something_stands(text: str, number: int) -> None:
    assert num_steps(text) == number


def test_another_mark_may_stand_between_steps() -> None:
    assert num_steps("a 9 - 3 = 6 ; b 6 + 1 = 7 ; </think>", ";") == 3


def found(text: str) -> list[tuple[str, bool]]:
    return [(connector.name, connector.starts_sentence) for connector in connectors_in(text)]


@pytest.mark.parametrize("name", CONNECTORS)
def test_each_connector_is_found_in_any_case_and_only_as_a_word(name: str) -> None:
    assert [each for each, _start in found(f"{name} it. {name.upper()} it, {name.lower()} it")] == [name] * 3
    assert found(f"un{name}it {name}s") == []


@pytest.mark.parametrize(
    "text",
    ["Wait, no", "Done. Wait", "Done!  Wait", "x = 3;\nWait", "line\n\n**Wait", "<think>\nWait", "</think> Wait",
     '" Wait', "so it is: Wait", "end.) - Wait", "= 6 ; Wait"],
)  # fmt: skip
def test_a_connector_that_begins_a_sentence_is_told(text: str) -> None:
    assert ("Wait", True) in found(text)


@pytest.mark.parametrize("text", ["no, wait", "and wait", "3 wait", "(x), (wait", "x" * 30 + " " * 30 + "y wait"])
def test_a_connector_within_a_sentence_is_told(text: str) -> None:
    assert ("Wait", False) in found(text)


def test_words_of_several_parts_are_one_connector() -> None:
    assert found("Hmmm. Let\nme double check. As a  result") == [
        ("Hmm", True),
        ("let me", True),
        ("double-check", False),
        ("as a result", True),
    ]


def loop_of(text: str) -> Any:
    return find_loop(text, words_of(text))


@pytest.mark.parametrize(
    ("unit", "repeats", "period"),
    [("no, ", 150, 2), (". ", 300, 1), ("answer", 250, 1), ("Wait, that is not right. Let me try again. ", 40, 12),
     (" ".join(f"word{i}" for i in range(300)) + ". ", 4, 301)],
)  # fmt: skip
def test_a_text_that_says_the_same_again_and_again_loops(unit: str, repeats: int, period: int) -> None:
    text = "First something else. " + f"{unit} " * repeats
    loop = loop_of(f"{text}And then on.")
    assert loop.period == period
    assert loop.repeats == pytest.approx(repeats, abs=1)
    assert loop.span >= MIN_SPAN
    assert 0 < loop.begin < 40


def test_a_loop_is_told_by_its_shortest_unit_and_its_text() -> None:
    loop = loop_of("So: " + "a b a c. " * 60)
    assert (loop.period, loop.begin) == (5, 4)
    assert loop.unit == "a b a c."


def test_a_unit_of_any_length_is_found() -> None:
    unit = " ".join(f"word{i}" for i in range(3000))
    loop = loop_of(f"{PROSE} {f'{unit} ' * 4}")
    assert (loop.period, loop.span) == (3000, 12_000)


@pytest.mark.parametrize("before", [True, False])
def test_of_two_loops_the_longer_one_is_told(before: bool) -> None:
    """Every period is a multiple of the first one's."""
    dots, again = "." * 300, "Wait, that is not right. Let me try again. " * 40
    loop = loop_of(f"{dots} and {again}" if before else f"{again} and {dots}")
    assert (loop.period, loop.span // 12) == (12, 40)


def test_of_periods_that_all_fit_the_shortest_is_told_however_often_it_stands() -> None:
    loop = loop_of("And so on. " + "no, " * 9000 + "yes")
    assert (loop.period, loop.span) == (2, 18_000)


def near_loops() -> dict[str, str]:
    rng = random.Random(0)
    waits = " ".join(rng.choice(["wait", "no", "okay", "so", "that", "is", "not"]) for _ in range(2000))
    return {
        "an enumeration": PROSE,
        "a refrain between different lines": " ".join(
            f"Case {i}: {i * 7}. Let me check that again." for i in range(99)
        ),
        "a row of zeros": "The digits are " + "0, " * 60 + "and so on.",
        "dots in a table of contents": "." * 150,
        "three times the same paragraph": (PROSE[:3000] + " ") * 3,
        "few words in random order": waits,
        "nothing": "",
        "one word": "x",
    }


@pytest.mark.parametrize("name", near_loops())
def test_a_near_loop_is_no_loop(name: str) -> None:
    assert loop_of(near_loops()[name]) is None


def test_repetition_is_the_share_of_runs_that_stood_before() -> None:
    assert repetition(words_of("a b c d e f g")) == 0
    assert repetition(words_of("a b c")) == 0
    assert repetition(words_of("a b c d a b c d")) == pytest.approx(1 / 5)
    assert repetition(words_of("x " * 103)) == pytest.approx(99 / 100)
    words = words_of(PROSE)
    runs = [tuple(words[i : i + 4].tolist()) for i in range(len(words) - 3)]
    assert repetition(words) == pytest.approx(1 - len(set(runs)) / len(runs))


def test_of_a_huge_text_only_the_first_words_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held beside the text is less than a copy of it."""
    monkeypatch.setattr(loops, "MAX_WORDS", 2**14)
    text = "no, " * 2**19
    tracemalloc.start()
    facts = facts_of(response(text))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert facts.words == 2**14
    assert facts.loop is not None
    assert peak < len(text)


def test_a_response_gives_its_figures_and_keeps_what_was_stated() -> None:
    text = "Wait, so it is 4.\n\nHmm. But no, wait.\n\nTherefore </think> \ud800 4"
    facts = facts_of(response(text, verdict=Grade.WRONG, length=17, truncated=True))
    assert facts.starting == Counter({"Wait": 1, "Hmm": 1, "But": 1, "Therefore": 1})
    assert facts.elsewhere == Counter({"So": 1, "Wait": 1})
    row = facts.as_row()
    assert (row["steps"], row["verdict"], row["length"], row["truncated"]) == (3, "wrong", 17, True)
    assert row["redundant"] == 3
    assert row["loop"] is None


def test_an_empty_response_has_figures_too() -> None:
    facts = facts_of(response(""))
    assert (facts.words, facts.steps, facts.repetition, facts.loop) == (0, 0, 0.0, None)


def test_sums_are_told_for_all_and_by_verdict() -> None:
    totals = TextTotals()
    totals.add(facts_of(response("Wait. So\n\n6", verdict=Grade.RIGHT, length=10)))
    totals.add(facts_of(response("no. " * 200, verdict=Grade.WRONG, length=30)))
    totals.add(facts_of(response("Hmm", verdict=None, length=20)))
    result = totals.result()
    assert {name: figures["num"] for name, figures in result["by_verdict"].items()} == {
        "all": 3,
        "right": 1,
        "wrong": 1,
        "not judged": 1,
    }
    every, right = result["by_verdict"]["all"], result["by_verdict"]["right"]
    assert every["length"] == {"mean": 20, "p50": 20, "p90": 28, "max": 30}
    assert right["length"]["mean"] == 10
    assert (every["connectors_starting"], every["redundant"], every["num_loops"]) == (1, 2 / 3, 1)
    assert every["connectors_per_1k_tokens"] == pytest.approx(1000 * 3 / 60)
    assert result["connectors"]["Wait"]["right_starting"] == 1
    assert result["connectors"]["Wait"]["all_starting"] == pytest.approx(1 / 3)
    [loop] = result["loops"]
    assert (loop["verdict"], loop["length"], loop["period"], loop["share"]) == ("wrong", 30, 2, 1)


def test_where_a_length_is_unknown_no_rate_is_told() -> None:
    totals = TextTotals()
    totals.add(facts_of(response("Wait", length=10)))
    totals.add(facts_of(response("Wait")))
    assert totals.result()["by_verdict"]["all"]["connectors_per_1k_tokens"] is None


def test_what_is_held_of_a_response_is_a_few_numbers() -> None:
    facts = facts_of(response("Wait. " * 30, verdict=Grade.RIGHT, length=10))
    totals = TextTotals()
    totals.add(facts)
    tracemalloc.start()
    for _ in range(2_000):
        totals.add(facts)
    now, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 2_000 * 64


def test_bars_pair_the_first_response_to_each_problem_of_the_base() -> None:
    base = Bars()
    for i in range(MAX_PROBLEMS + 5):
        base.add(facts_of(response("a\n\nb", problem_id=f"p{i}", length=100 + i)))
    own = Bars(base.found.keys())
    for i, length in ((2, 20), (1, 10), (1, 11), (99, 9)):
        own.add(facts_of(response("a", problem_id=f"p{i}", length=length, verdict=Grade.RIGHT)))
    rows = paired(own, base)
    assert [row["problem"] for row in rows] == [f"p{i}" for i in range(MAX_PROBLEMS)]
    assert rows[0]["own"] is None
    assert rows[1]["own"] == {"length": 10, "words": 1, "steps": 1, "verdict": "right", "loops": False}
    assert rows[1]["base"]["steps"] == 2
