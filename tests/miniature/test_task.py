"""The chain-arithmetic task: hand-made values, the grammar of a trace, and the recipe's proportions."""

import random
import re

import pytest

from egrc_mega.miniature.task import MARKS, Problem, draw_problem, verbose_trace

EXAMPLE = Problem(9, (("-", 3), ("+", 1), ("-", 2)))
SEGMENT = r"[a-g] (?P<start>\d)(?P<rest>( [a-g])? [+-] \d)+ = \d ;"
STEP = r"((Then|So|Next|Therefore) )?"
CHECK = r"((Wait|Hmm|Alternatively) (check )?)?"
BODY = rf"({STEP}{CHECK}[a-g] \d [+-] \d( [a-g] [+-] \d)? = \d ; )+"
TRACE = re.compile(rf"{BODY}((Wait|Hmm|Alternatively) again {BODY})?</think> \\boxed{{ \d }}")
RESULT = re.compile(r"([a-g]) (\d) ([+-]) (\d)(?: [a-g] ([+-]) (\d))? = (\d) ;")


def _value(match: re.Match[str]) -> int:
    _mark, start, operator, operand, second_operator, second_operand, _result = match.groups()
    value = int(start) + int(operator + operand)
    return (value + int(second_operator + second_operand) if second_operator else value) % 10


def test_a_problem_reads_and_ends_as_by_hand() -> None:
    assert EXAMPLE.text() == "9 a - 3 b + 1 c - 2 = ?"
    assert EXAMPLE.answer() == "5"
    assert Problem(1, (("-", 3), ("-", 3))).answer() == "5", "1 - 3 = 8 modulo 10, then 5"
    assert Problem(9, (("+", 3), ("+", 3))).answer() == "5"


def test_problems_are_drawn_evenly_from_the_ranges_of_run_b() -> None:
    rng = random.Random(0)
    problems = [draw_problem(rng) for _ in range(4000)]
    lengths = [len(p.operations) for p in problems]
    assert sorted(set(lengths)) == [2, 3, 4, 5]
    assert all(abs(lengths.count(k) - 1000) < 120 for k in (2, 3, 4, 5)), "within about four standard deviations"
    assert {p.start for p in problems} == set(range(10))
    assert {operation for p in problems for operation in p.operations} == {(o, d) for o in "+-" for d in (1, 2, 3)}


def test_the_same_seed_gives_the_same_problem_and_trace() -> None:
    first, second = (random.Random(7), random.Random(7))
    problems = draw_problem(first), draw_problem(second)
    assert problems[0] == problems[1]
    assert verbose_trace(problems[0], first) == verbose_trace(problems[1], second)


def test_every_trace_follows_the_grammar_and_ends_in_the_answer() -> None:
    rng = random.Random(1)
    for _ in range(500):
        problem = draw_problem(rng)
        trace = verbose_trace(problem, rng)
        assert TRACE.fullmatch(trace), trace
        assert trace.endswith(f"</think> \\boxed{{ {problem.answer()} }}")
        assert "  " not in trace


def test_a_wrong_result_is_always_checked_and_never_built_upon() -> None:
    rng = random.Random(2)
    for _ in range(500):
        problem = draw_problem(rng)
        segments = list(RESULT.finditer(verbose_trace(problem, rng)))
        for segment, following in zip(segments, [*segments[1:], None], strict=True):
            if int(segment[7]) != _value(segment):
                assert following is not None and following[0].split(" = ")[0] == segment[0].split(" = ")[0]
        starts = {m[1]: m[2] for m in segments}
        value = problem.start
        for mark, (operator, operand) in zip(MARKS, problem.operations, strict=False):
            assert starts.get(mark, str(value)) == str(value), "a segment starts from the right value"
            value = (value + int(f"{operator}{operand}")) % 10


def test_the_proportions_are_the_recipes() -> None:
    rng = random.Random(3)
    traces = [verbose_trace(draw_problem(rng), rng) for _ in range(3000)]
    lengths = [len(trace.split()) + 1 for trace in traces]
    assert sum(lengths) / len(lengths) == pytest.approx(89, abs=3), "about 86 in the prototype"
    assert max(lengths) < 320 and min(lengths) >= 7 + 5
    assert sum(" again " in trace for trace in traces) / 3000 == pytest.approx(0.6, abs=0.04)
    segments = [segment for trace in traces for segment in RESULT.finditer(trace)]
    wrong = sum(int(s[7]) != _value(s) for s in segments)
    checks = sum(len(re.findall("(?:Wait|Hmm|Alternatively) (?!again)", trace)) for trace in traces)
    first_attempts = sum(len(RESULT.findall(trace.split(" again ")[0])) for trace in traces) - checks
    assert wrong / first_attempts == pytest.approx(0.15, abs=0.02)
    assert checks / first_attempts == pytest.approx(1.44, abs=0.1), "geometric(0.62) up to 4, at least 1 after an error"
