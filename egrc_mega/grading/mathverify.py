"""The last rung: math-verify, for notation that the own grammar does not know, such as integrals and limits.

Only the LaTeX target, only the whole text, no fallback to any number in it; compared at 40 digits.
"""

import re
from typing import Any

DIGITS = 40
BEYOND = re.compile(r"\\(?:int|iint|oint|lim)(?![A-Za-z])")
"""What math-verify can read and the own grammar cannot."""
_TOO_BIG = re.compile(r"\d{5}|!|\^[^^]*\^|\\(?:sum|prod|binom)")


def is_beyond(text: str) -> bool:
    """Whether a plain text is for math-verify, and small enough for it."""
    return BEYOND.search(text) is not None and not _TOO_BIG.search(text) and "?" not in text and "\\text" not in text


def are_equal(gold: str, answer: str) -> bool:
    """What math-verify says of two plain texts; False where it cannot read one of them. May run for long."""
    from math_verify import verify

    golds, answers = _read(gold), _read(answer)
    if not golds or not answers:
        return False
    return bool(
        verify(
            golds,
            answers,
            float_rounding=DIGITS + 10,
            numeric_precision=DIGITS,
            allow_set_relation_comp=True,
            timeout_seconds=None,
            raise_on_error=False,
        )
    )


def _read(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    shown = text.replace("*", " \\cdot ")
    found = parse(
        f"$\\boxed{{{shown}}}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
        raise_on_error=False,
    )
    return [form for form in found if not isinstance(form, str)]
