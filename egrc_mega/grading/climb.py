"""One climb up the ladder: what the rules of all types share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from egrc_mega.grading.gold import AnswerType, Gold
from egrc_mega.grading.markup import compact
from egrc_mega.grading.profiles import Profile
from egrc_mega.grading.syntax import Node, SyntaxRefusal, parse_expression
from egrc_mega.grading.verdicts import Reason

MAX_PARTS = 60
"""Of a list that is compared member by member."""


class NeedsChild(Exception):
    """A leaf must be evaluated, which only a grading process may do."""


class Refused(Exception):
    """The answer is wrong, for a reason that tells more than the rung it stands on."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Climb:
    """The state of one climb."""

    profile: Profile
    may_evaluate: bool
    """This is a grading process: it may be killed."""
    rules: Mapping[AnswerType, "Rule"]
    """Who compares golds of each type."""
    reason: Reason = Reason.STRUCTURE
    """Of the last rung that decided."""
    steps: list[str] = field(default_factory=list)
    """What each rung saw, for `egrc grade`."""

    def matches(self, gold: Gold, shown: str) -> bool:
        """Whether a plain text answers a gold or one of its parts.

        Raises:
            NeedsChild: it takes an evaluation, and this process may not evaluate.
            Refused: it does not, and a rule can say why.
        """
        if gold.type != AnswerType.BASE and compact(shown) in (compact(gold.plain), compact(gold.whole or gold.text)):
            return self.decided(Reason.EQUAL_TEXT, True)
        return self.rules[gold.type](self, gold, shown)

    def tries(self, gold: Gold, shown: str) -> bool:
        """The same, where another gold may be answered instead."""
        try:
            return any(self._tries(each, shown) for each in (gold, *gold.alternatives))
        except RecursionError:
            raise Refused(Reason.TOO_BIG) from None

    def _tries(self, gold: Gold, shown: str) -> bool:
        try:
            return self.matches(gold, shown)
        except Refused as refusal:
            self.reason = refusal.reason
            self.steps.append(f"refused: {refusal.reason}")
            return False

    def decided(self, rung: Reason, is_equal: bool) -> bool:
        """Note what a rung said."""
        self.reason = rung
        self.steps.append(f"{rung}: {'equal' if is_equal else 'not equal'}")
        return is_equal

    def names_agree(self, gold: Gold, name: str | None) -> bool:
        """An answer may name what the gold does not, and the other way round; two names must be the same."""
        if gold.name is None or name is None:
            return True
        first, second = (re.sub(r"[{} |]|\\text|\\[lr]vert", "", each) for each in (gold.name, name))
        if first == second or _differ_by_number(first, second) or _call_the_value(first, second):
            return True
        self.reason = Reason.NAME
        return False

    def needs_child(self) -> None:
        """Only a grading process goes on from here.

        Raises:
            NeedsChild: this is none.
        """
        if not self.may_evaluate:
            raise NeedsChild

    def tree(self, text: str) -> Node:
        """The expression in an answer.

        Raises:
            Refused: there is none.
        """
        try:
            return parse_expression(text)
        except SyntaxRefusal as error:
            self.steps.append(f"does not parse: {error}")
            raise Refused(Reason.DOES_NOT_PARSE) from None


Rule = Callable[[Climb, Gold, str], bool]


def _differ_by_number(first: str, second: str) -> bool:
    """`x_1` and `x_2` may be exchanged: nobody says which root is the first."""
    return bool(re.fullmatch(r"[A-Za-z]_?\d+", first)) and re.sub(r"\d", "", first) == re.sub(r"\d", "", second)


def _call_the_value(first: str, second: str) -> bool:
    """`y` and `f(x)` are names of the same value; `f(x)` and `g(x)` are not, nor are `x` and `y`."""
    return {first[1:], second[1:]} != {""} and ("y" in (first, second)) and ("(" in first or "(" in second)
