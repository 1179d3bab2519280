"""Compares one answer with the gold: at sight where that is safe, else by math-verify in a child that may be killed.

math-verify's own timeouts answer "wrong"; they are off here, and the parent's deadline decides. Importing this module
does not import math-verify: the parent needs only the quick look.
"""

import logging
import re
from typing import Any

from egrc_mega.types import Grade

MAX_CHARACTERS = 1000
"""A longer answer is no answer: it is wrong, and math-verify never sees it. A longer gold cannot be graded."""
INTEGER = re.compile(r"[-+]?[0-9]+")
BASE = re.compile(r"(?:[0-9][A-F]*|[0-9A-F]\s*[)}])\s*_\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\w+)")
"""The subscript of a number, e.g. the `2` of `11_2` and of `(11)_{2}`, but not the `1` of `x_1`."""
LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
FULL_STOP = re.compile(r"(?<!\.)\.$")


def judge_at_sight(answer: str, gold: str) -> Grade | None:
    """A verdict that needs no mathematics, in time linear in the texts; None when it does.

    RIGHT: the same text but for spaces and punctuation around, or the same integer. WRONG: empty, longer than
    `MAX_CHARACTERS`, another integer, another base (math-verify drops subscripts: to it `11_2` is 11).
    """
    answer, gold = _normalised(answer), _normalised(gold)
    if not answer or len(answer) > MAX_CHARACTERS:
        return Grade.WRONG
    if answer == gold:
        return Grade.RIGHT
    if len(gold) > MAX_CHARACTERS:
        return Grade.UNGRADED
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold):
        return Grade.RIGHT if int(answer) == int(gold) else Grade.WRONG
    return None if _bases(answer) == _bases(gold) else Grade.WRONG


def judge(answer: str, gold: str) -> Grade:
    """RIGHT or WRONG; UNGRADED when the gold cannot be parsed or the verifier itself fails. May run for ever."""
    verdict = judge_at_sight(answer, gold)
    return _judge_by_math_verify(answer, gold) if verdict is None else verdict


def _judge_by_math_verify(answer: str, gold: str) -> Grade:
    from math_verify import verify

    try:
        gold_forms, answer_forms = _parsed(gold), _parsed(answer)
        if answer_forms and verify(gold_forms, answer_forms, timeout_seconds=None, raise_on_error=True):
            return Grade.RIGHT
    except Exception:  # whatever goes wrong in there is the verifier's failure, not the answer's
        return Grade.UNGRADED
    # a gold that stayed text has no value that another spelling could be compared with
    return Grade.UNGRADED if all(isinstance(form, str) for form in gold_forms) else Grade.WRONG


def _parsed(text: str) -> list[Any]:
    """What math-verify makes of a box with this content: values and texts; empty when it cannot parse it."""
    from math_verify import parse

    try:
        forms: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None, raise_on_error=True)
    except (MemoryError, RecursionError):  # says nothing about the text
        raise
    except Exception:
        return []
    return forms


def silence() -> None:
    """Keep math-verify from logging whole answers and warning that its timeouts are off."""
    logging.disable(logging.CRITICAL)


def _normalised(text: str) -> str:
    """Spaces that separate nothing, dollar signs around and one full stop at the end do not matter."""
    return FULL_STOP.sub("", LOOSE_SPACE.sub("", " ".join(text.split())).strip("$"))


def _bases(text: str) -> list[str]:
    return [re.sub(r"\\text|[^0-9A-Za-z]", "", subscript) for subscript in BASE.findall(text)]
