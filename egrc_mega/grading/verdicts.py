"""Why a verdict was given, in the words of metrics, reports and rollout files."""

from enum import StrEnum


class Reason(StrEnum):
    """The rung of the ladder that decided, or what went wrong."""

    NO_BOX = "no box"
    OPEN_THINKING = "no end of thinking"
    EMPTY = "empty box"
    TOO_LONG = "too long"
    EQUAL_TEXT = "equal text"
    NUMERAL = "numeral"
    TOLERANCE = "within tolerance"
    WORDS = "words"
    UNIT = "other unit"
    NAME = "other name"
    STRUCTURE = "structure"
    UNEVALUATED = "unevaluated"
    DOES_NOT_PARSE = "does not parse"
    SAMPLED = "sampled"
    MATH_VERIFY = "math-verify"
    TOO_BIG = "too big"
    TOO_SLOW = "too slow"
    DIED = "child died"
    BAD_GOLD = "gold not understood"
    NO_TIME = "no time on this machine"


NO_ANSWER = (Reason.NO_BOX, Reason.OPEN_THINKING, Reason.EMPTY)
"""There was nothing to judge."""
