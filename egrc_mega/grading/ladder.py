"""The ladder: one answer against one gold, rung by rung, from equal text to the values of expressions.

The rungs that need no evaluation take linear time and run in the trainer's process (`judge_at_sight`). Where a leaf
must be evaluated the whole pair goes to a grading process (`judge`), which may be killed.
"""

from egrc_mega.grading.climb import Climb, NeedsChild, Refused, Rule
from egrc_mega.grading.extract import last_box
from egrc_mega.grading.gold import AnswerType, Gold, GoldError, understand
from egrc_mega.grading.markup import compact, plain, without_domain
from egrc_mega.grading.parts import listed, matrix, ordered, ratio
from egrc_mega.grading.profiles import profile_called
from egrc_mega.grading.relations import equation, real_set
from egrc_mega.grading.scalars import scalar
from egrc_mega.grading.structure import split_name
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.words import base_numeral, choice_of, clock_time, means_nothing, words_of
from egrc_mega.types import NO_HINTS, Grade, Hints, Verdict

MAX_CHARACTERS = 1000
"""A longer answer is no answer."""


def judge_at_sight(answer: str, gold: str, hints: Hints = NO_HINTS) -> Verdict | None:
    """The verdict where no expression must be evaluated, in time linear in the texts; None: ask `judge`."""
    try:
        return climbed(answer, gold, hints, may_evaluate=False)[0]
    except NeedsChild:
        return None


def judge(answer: str, gold: str, hints: Hints = NO_HINTS) -> Verdict:
    """The verdict. Evaluates what the answer says: only for a process that may be killed."""
    return climbed(answer, gold, hints, may_evaluate=True)[0]


def climbed(answer: str, gold: str, hints: Hints, *, may_evaluate: bool) -> tuple[Verdict, list[str]]:
    """The verdict and what each rung saw.

    An answer's own failure is WRONG. A gold that is not understood is no verdict: readers quarantine it.

    Raises:
        NeedsChild: an expression must be evaluated, and that is not allowed here.
    """
    try:
        understood = understand(gold, hints)
    except GoldError as error:
        return Verdict(grade=Grade.UNGRADED, reason=Reason.BAD_GOLD), [f"gold: {error}"]
    climb = Climb(profile_called(hints.profile), may_evaluate, _RULES)
    climb.steps.append(f"gold: {understood.type}, {understood.plain}")
    reason = _refusal_at_once(answer)
    if reason is not None:
        return Verdict(grade=Grade.WRONG, reason=reason), climb.steps
    shown = without_domain(plain((last_box(answer) if "box" in answer else None) or answer))
    climb.steps.append(f"answer: {shown}")
    try:
        is_right = climb.tries(understood, shown)
    except Refused as refusal:
        return Verdict(grade=Grade.WRONG, reason=refusal.reason), climb.steps
    return Verdict(grade=Grade.RIGHT if is_right else Grade.WRONG, reason=climb.reason), climb.steps


def _refusal_at_once(answer: str) -> Reason | None:
    if not answer.strip():
        return Reason.EMPTY
    return Reason.TOO_LONG if len(answer) > MAX_CHARACTERS else None


def _words(climb: Climb, gold: Gold, shown: str) -> bool:
    if means_nothing(gold.plain) and means_nothing(shown):
        return climb.decided(Reason.WORDS, True)
    name, value = split_name(shown)
    is_named = name is not None and climb.names_agree(gold, name)
    return climb.decided(Reason.WORDS, words_of(value if is_named else shown) == words_of(gold.plain))


def _choice(climb: Climb, gold: Gold, shown: str) -> bool:
    return climb.decided(Reason.WORDS, choice_of(shown) == gold.plain)


def _time(climb: Climb, gold: Gold, shown: str) -> bool:
    """The same time; morning and afternoon may be left to the question."""
    wanted, found = clock_time(gold.plain), clock_time(shown)
    if wanted is None or found is None:
        return climb.decided(Reason.WORDS, False)
    is_equal = wanted[:3] == found[:3] and (wanted[3] == found[3] or "" in (wanted[3], found[3]))
    return climb.decided(Reason.WORDS, is_equal)


def _base(climb: Climb, gold: Gold, shown: str) -> bool:
    return climb.decided(Reason.NUMERAL, base_numeral(compact(shown)) == base_numeral(compact(gold.plain)))


_RULES: dict[AnswerType, Rule] = {
    AnswerType.INTEGER: scalar,
    AnswerType.RATIONAL: scalar,
    AnswerType.DECIMAL: scalar,
    AnswerType.PERCENT: scalar,
    AnswerType.CLOSED_FORM: scalar,
    AnswerType.EXPRESSION: scalar,
    AnswerType.EQUATION: equation,
    AnswerType.INEQUALITY: real_set,
    AnswerType.INTERVAL: real_set,
    AnswerType.TUPLE: ordered,
    AnswerType.LIST: listed,
    AnswerType.MATRIX: matrix,
    AnswerType.RATIO: ratio,
    AnswerType.TIME: _time,
    AnswerType.BASE: _base,
    AnswerType.CHOICE: _choice,
    AnswerType.WORDS: _words,
}
"""Who compares golds of each type."""
