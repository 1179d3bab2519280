"""Compares one answer with the gold, by math-verify. Runs in a child process that its parent may kill at any time.

math-verify's own timeouts answer "wrong"; they are off here, and the parent's deadline decides.
"""

import logging
import re

from egrc_mega.types import Grade

MAX_ANSWER_CHARACTERS = 1000
"""A longer answer is no answer: it is wrong, and math-verify never sees it."""
SUBSCRIPT = re.compile(r"_\s*\{?\s*\w+")


def judge(answer: str, gold: str) -> Grade:
    """RIGHT or WRONG; UNGRADED when the gold cannot be parsed or the verifier itself fails."""
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Grade.WRONG
    if _normalised(answer) == _normalised(gold):
        return Grade.RIGHT
    # math-verify drops subscripts: 11_2 would equal 11
    if bool(SUBSCRIPT.search(answer)) != bool(SUBSCRIPT.search(gold)):
        return Grade.WRONG
    return _judge_by_math_verify(answer, gold)


def _judge_by_math_verify(answer: str, gold: str) -> Grade:
    from math_verify import parse, verify

    try:
        parsed_gold = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
        if not parsed_gold:
            return Grade.UNGRADED
        parsed_answer = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
        is_right = bool(parsed_answer) and verify(parsed_gold, parsed_answer, timeout_seconds=None)
    except Exception:  # whatever goes wrong in there is the verifier's failure, not the answer's
        return Grade.UNGRADED
    return Grade.RIGHT if is_right else Grade.WRONG


def silence() -> None:
    """math-verify logs whole answers; a child has nobody to tell."""
    logging.disable(logging.CRITICAL)


def _normalised(text: str) -> str:
    """Spaces, a trailing full stop, and dollar signs around do not matter."""
    return text.replace(" ", "").strip("$").rstrip(".")
