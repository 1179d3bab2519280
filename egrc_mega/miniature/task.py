"""Chain arithmetic with redundant checks: a task on which a model can learn to think too long.

A problem is a start digit and a few marked operations modulo 10, applied left to right. The verbose trace that the base
model learns from re-checks its steps again and again, merges some, gets some first attempts wrong, and often does the
whole chain twice: redundancy that reinforcement learning can remove. Tokens are separated by single spaces.
"""

import random
from dataclasses import dataclass

STEP_WORDS = ("Then", "So", "Next", "Therefore")
CHECK_WORDS = ("Wait", "Hmm", "Alternatively")
MARKS = "abcdefg"

MIN_OPERATIONS, MAX_OPERATIONS = 2, 5
MAX_OPERAND = 3
P_STEP_WORD = 0.8
P_MERGE = 0.15
"""Two operations in one segment: the temptation to compress too far."""
P_WRONG = 0.15
"""A first attempt with a wrong result, always re-checked."""
P_RECHECK, MAX_RECHECKS = 0.62, 4
P_CHECK_TOKEN = 0.5
P_REPEAT = 0.6
"""The whole chain once more, without errors."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`start` in 0..9, then (operator, operand) pairs with operand 1..3."""

    start: int
    operations: tuple[tuple[str, int], ...]

    def text(self) -> str:
        """The prompt, e.g. `9 a - 3 b + 1 = ?`."""
        marked = [f"{MARKS[i]} {operator} {operand}" for i, (operator, operand) in enumerate(self.operations)]
        return " ".join([str(self.start), *marked, "= ?"])

    def answer(self) -> str:
        """The final digit, as the response must end."""
        value = self.start
        for operator, operand in self.operations:
            value = apply(value, operator, operand)
        return str(value)


def apply(value: int, operator: str, operand: int) -> int:
    """One operation modulo 10."""
    return (value + operand if operator == "+" else value - operand) % 10


def draw_problem(rng: random.Random) -> Problem:
    """A random problem of 2 to 5 operations."""
    count = rng.randint(MIN_OPERATIONS, MAX_OPERATIONS)
    operations = tuple((rng.choice("+-"), rng.randint(1, MAX_OPERAND)) for _ in range(count))
    return Problem(rng.randint(0, 9), operations)


def verbose_trace(problem: Problem, rng: random.Random) -> str:
    """A redundant solution: the text after `<think>`, its words separated by single spaces."""
    tokens = _chain(problem, rng, is_redundant=True)
    if rng.random() < P_REPEAT:
        tokens += [rng.choice(CHECK_WORDS), "again", *_chain(problem, rng, is_redundant=False)]
    return " ".join([*tokens, "</think>", "\\boxed{", problem.answer(), "}"])


def _chain(problem: Problem, rng: random.Random, *, is_redundant: bool) -> list[str]:
    tokens: list[str] = []
    value, i = problem.start, 0
    while i < len(problem.operations):
        width = 2 if i + 2 <= len(problem.operations) and rng.random() < P_MERGE else 1
        result = value
        for operator, operand in problem.operations[i : i + width]:
            result = apply(result, operator, operand)
        if rng.random() < P_STEP_WORD:
            tokens.append(rng.choice(STEP_WORDS))
        is_wrong = is_redundant and rng.random() < P_WRONG
        shown = (result + rng.randint(1, 9)) % 10 if is_wrong else result
        tokens += _segment(problem, value, i, width, shown)
        for _ in range(_num_rechecks(rng, is_wrong) if is_redundant else 0):
            tokens.append(rng.choice(CHECK_WORDS))
            if rng.random() < P_CHECK_TOKEN:
                tokens.append("check")
            tokens += _segment(problem, value, i, width, result)
        value, i = result, i + width
    return tokens


def _num_rechecks(rng: random.Random, is_wrong: bool) -> int:
    count = 0
    while count < MAX_RECHECKS and rng.random() < P_RECHECK:
        count += 1
    return max(1, count) if is_wrong else count


def _segment(problem: Problem, value: int, first: int, width: int, result: int) -> list[str]:
    """E.g. `b 2 + 1 = 3 ;`, or with two operations `b 2 + 1 c - 2 = 1 ;`."""
    tokens = [MARKS[first], str(value)]
    for i in range(first, first + width):
        operator, operand = problem.operations[i]
        tokens += ([MARKS[i]] if i > first else []) + [operator, str(operand)]
    return [*tokens, "=", str(result), ";"]
