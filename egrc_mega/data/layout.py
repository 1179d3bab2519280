"""Recognises the columns of well-known data sets, for those who have not named them."""

from collections.abc import Mapping, Sequence
from typing import Any

from egrc_mega.data.answer import SOLUTION, answer_of
from egrc_mega.data.row import RowError, value_of

PROMPT_KEYS = ("problem", "question", "prompt", "Problem", "Question", "query", "input", "instruction")
"""DeepScaleR and MATH; OlympiadBench and GSM8K; verl and slime; what else is met."""
ANSWER_KEYS = (
    "answer",
    "final_answer",
    "reward_model.ground_truth",
    "label",
    "Answer",
    "expected_answer",
    "ground_truth",
    "gold",
    "target",
    SOLUTION,
)
"""DeepScaleR, MATH and GSM8K; OlympiadBench; verl; slime; what else is met; Minerva's `solution`, of which the last
box counts."""


def guessed_keys(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """The prompt's key and the answer's, under which most of the rows have something; None: no pair of known names."""
    prompt = _best(rows, PROMPT_KEYS, value_of)
    answer = _best(rows, ANSWER_KEYS, _own_answer)
    return (prompt, answer) if prompt and answer else None


def _own_answer(row: Mapping[str, Any], key: str) -> str | None:
    """The answer where the row has the very key, not one taken from elsewhere."""
    return None if value_of(row, key) is None else answer_of(row, key)


def _best(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], read: Any) -> str | None:
    counts = {key: sum(_can_read(row, key, read) for row in rows) for key in keys}
    best = max(counts, key=lambda key: counts[key])
    return best if counts[best] else None


def _can_read(row: Mapping[str, Any], key: str, read: Any) -> bool:
    try:
        return read(row, key) is not None
    except RowError:
        return False
