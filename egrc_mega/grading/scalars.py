"""Golds with one value: numerals are compared exactly, other expressions by their values."""

from fractions import Fraction
from typing import Any

from egrc_mega.grading.climb import Climb, NeedsChild, Refused
from egrc_mega.grading.gold import NUMERIC, AnswerType, Gold
from egrc_mega.grading.markup import compact
from egrc_mega.grading.mathverify import are_equal as are_equal_to_math_verify
from egrc_mega.grading.mathverify import is_beyond
from egrc_mega.grading.numerals import decimals_of, numeral, rounds_to
from egrc_mega.grading.structure import EQUALS, bracketed, is_name, list_parts, pieces, without_pm
from egrc_mega.grading.syntax import Node, SyntaxRefusal, parse_expression
from egrc_mega.grading.tree import symbols_of
from egrc_mega.grading.units import split_unit, units_agree
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.words import base_numeral, number_word

EXACT_BELOW = 100
"""Integers below are counted, not measured: no tolerance."""
UNDONE = {"sum", "product", "gcd", "lcm", "max", "min"}
"""Operations that a number does not show undone."""
ARITHMETIC = {"number", "add", "multiply", "divide", "negate"}


def scalar(climb: Climb, gold: Gold, shown: str) -> bool:
    """`name = value`, a chain of equal values, or the value alone. Every side of a chain must be the gold."""
    sides = pieces(shown, EQUALS)
    if len(sides) > 1 and not sides[0][1]:
        sides = sides[1:]  # `= 5`, `\approx 5`
    whole = sides
    if len(sides) > 1:
        name, sides = _without_name(sides)
        if name is None and gold.name is not None and gold.tree is not None:
            return _is_equation_of(climb, gold, sides)
        if not climb.names_agree(gold, name):
            return gold.tree is not None and bool(symbols_of(gold.tree)) and _is_equation_of(climb, gold, whole)
    *others, (last_sign, last) = sides
    exact = [text for sign, text in others if sign != "\\approx"]
    if last_sign == "\\approx" and exact:
        # an exact value followed by what it is about
        return all(_value(climb, gold, text, i == len(exact) - 1) for i, text in enumerate(exact)) and _is_about(
            exact[-1], last
        )
    return all(_value(climb, gold, text, False) for _sign, text in others) and _value(climb, gold, last, True)


def _without_name(sides: list[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    first = compact(sides[0][1])
    if is_name(first) or _names_a_combination(first):
        return first, sides[1:]
    last = compact(sides[-1][1])
    if len(sides) == 2 and sides[1][0] == "=" and is_name(last):
        return last, sides[:1]
    return None, sides


def _names_a_combination(text: str) -> bool:
    """`m+n` of `m+n=204`: letters and signs without a number is what the question asks for."""
    try:
        tree = parse_expression(text)
    except SyntaxRefusal:
        return False
    return bool(symbols_of(tree)) and _operations(tree) <= {"symbol", "add", "multiply", "divide", "negate"}


def _is_about(exact: str, shown: str) -> bool:
    """Whether the approximation is one of the exact value, as far as numerals tell."""
    value, about = numeral(split_unit(exact)[0]), numeral(split_unit(shown)[0])
    decimals = decimals_of(split_unit(shown)[0])
    if value is None or about is None or decimals is None:
        return about is not None
    return rounds_to(value, about, decimals) or abs(value - about) * 10**decimals <= 1


def _is_equation_of(climb: Climb, gold: Gold, sides: list[tuple[str, str]]) -> bool:
    """`2x - y + 3 = 0` for `y = 2x + 3`."""
    if len(sides) != 2 or any(sign == "\\approx" for sign, _side in sides) or gold.tree is None:
        raise Refused(Reason.STRUCTURE)
    trees = [climb.tree(text) for _sign, text in sides]
    climb.needs_child()
    from egrc_mega.grading.compare import ratio_of_differences

    name = climb.tree(str(gold.name))
    ratio = ratio_of_differences((name, gold.tree), (trees[0], trees[1]))
    return climb.decided(Reason.SAMPLED, ratio is not None)


MAX_EQUAL = 8
"""Values of an answer that names the one gold several times."""


def _value(climb: Climb, gold: Gold, text: str, is_last: bool, *, is_member: bool = False) -> bool:
    """One side. Several equal values are one: `4, 4`, `\\{4\\}`; `\\pm 4` are two."""
    inner = bracketed(text)
    if inner is not None and inner.opening in ("\\{", "{"):
        text = inner.inner
    number, unit = split_unit(text)
    value = _special_numeral(number, gold) if numeral(number) is None else numeral(number)
    if value is not None:
        return _numeral(climb, gold, value, number, unit, is_last)
    members = [] if is_member else list_parts(text)[: MAX_EQUAL + 1]
    parts = [each for member in members for each in without_pm(member)]
    if len(parts) > 1:
        return len(parts) <= MAX_EQUAL and all(_value(climb, gold, part, is_last, is_member=True) for part in parts)
    return _expression(climb, gold, number, unit, is_last)


def _special_numeral(text: str, gold: Gold) -> Fraction | None:
    """A word, a number in base ten or, for a fraction, a ratio."""
    if gold.type == AnswerType.INTEGER:
        word = number_word(text)
        digits = base_numeral(compact(text)) if word is None else None
        return Fraction(word) if word is not None else Fraction(digits[0]) if digits and digits[1] == 10 else None
    first, colon, second = text.partition(":")
    above, below = (numeral(first), numeral(second)) if colon and gold.type == AnswerType.RATIONAL else (None, None)
    return above / below if above is not None and below else None


def _numeral(climb: Climb, gold: Gold, value: Fraction, number: str, unit: str | None, is_last: bool) -> bool:
    if gold.type not in NUMERIC:
        return _expression(climb, gold, number, unit, is_last)
    assert gold.value is not None
    if (
        is_last
        and gold.type == AnswerType.INTEGER
        and climb.profile.demands_numeral
        and ("/" in number or "frac" in number)
    ):
        raise Refused(Reason.UNEVALUATED)
    if "%" in (gold.unit, unit):
        return climb.decided(Reason.NUMERAL, _is_percentage(gold, value, unit) or _is_near(climb, gold, value))
    if not units_agree(gold.unit, unit):
        raise Refused(Reason.UNIT)
    if value == gold.value:
        return climb.decided(Reason.NUMERAL, True)
    if _is_near(climb, gold, value):
        return climb.decided(Reason.TOLERANCE, True)
    return climb.decided(Reason.NUMERAL, False)


def _is_percentage(gold: Gold, value: Fraction, unit: str | None) -> bool:
    """A percentage may be written without its sign, or as the number it is; two are compared as they stand."""
    assert gold.value is not None
    if gold.unit == unit:
        return value == gold.value
    percent, bare = (gold.value, value) if gold.unit == "%" else (value, gold.value)
    return bare in (percent, percent / 100)


def _is_near(climb: Climb, gold: Gold, value: Any) -> bool:
    """Within the tolerance of the set or of the row; numbers of either kind."""
    if gold.value is None:
        return False
    difference = abs(value - gold.value) if isinstance(value, Fraction) else abs(_inexact(value) - _inexact(gold.value))
    if gold.error is not None and difference <= _like(difference, gold.error):
        return True
    is_counted = gold.type == AnswerType.INTEGER and abs(gold.value) < EXACT_BELOW
    if not is_counted and climb.profile.relative_tolerance:
        tolerance = Fraction(str(climb.profile.relative_tolerance)) * abs(gold.value)
        if difference <= _like(difference, tolerance):
            return True
    decimals = decimals_of(gold.plain)
    if not climb.profile.rounds_to_gold or not decimals:
        return False
    return bool(difference * 2 * 10**decimals <= 1)


def _like(difference: Any, bound: Fraction) -> Any:
    return bound if isinstance(difference, Fraction) else _inexact(bound)


def _inexact(value: Any) -> Any:
    from egrc_mega.grading.numerics import inexact

    return inexact(value)


def _expression(climb: Climb, gold: Gold, number: str, unit: str | None, is_last: bool) -> bool:
    """By the values of the expressions."""
    if "%" in (gold.unit, unit):
        return _closed_percentage(climb, gold, number, unit)
    if not units_agree(gold.unit, unit):
        raise Refused(Reason.UNIT)
    if (gold.tree is None and gold.value is None) or (gold.type == AnswerType.EXPRESSION and is_beyond(number)):
        return _by_math_verify(climb, gold, number)
    tree = climb.tree(number)
    if is_last:
        _refuse_undone(climb, gold, tree)
    climb.needs_child()
    from egrc_mega.grading.numerics import TooBig

    try:
        return _compare(climb, gold, tree, unit)
    except TooBig as error:
        climb.steps.append(f"too big: {error}")
        raise Refused(Reason.TOO_BIG) from None


def _by_math_verify(climb: Climb, gold: Gold, number: str) -> bool:
    climb.needs_child()
    return climb.decided(Reason.MATH_VERIFY, are_equal_to_math_verify(gold.plain, number))


def _closed_percentage(climb: Climb, gold: Gold, number: str, unit: str | None) -> bool:
    """`\\frac{5}{8}` is a numeral; other expressions are compared with the number and with its hundredth."""
    tree = climb.tree(number)
    climb.needs_child()
    from egrc_mega.grading.compare import are_equal

    wanted = gold.tree if gold.tree is not None else Node("number", value=gold.value or Fraction(0))
    hundredth = Node("divide", (tree if unit == "%" else wanted, Node("number", value=Fraction(100))))
    pairs = [(wanted, tree)]
    if gold.unit != unit:
        pairs.append((wanted, hundredth) if unit == "%" else (hundredth, tree))
    return climb.decided(Reason.SAMPLED, any(are_equal(first, second) for first, second in pairs))


def _refuse_undone(climb: Climb, gold: Gold, tree: Node) -> None:
    """A number wants to be written as one: how far, the profile says.

    Raises:
        Refused: the answer leaves to the reader what was asked.
    """
    if gold.type not in NUMERIC:
        return
    if gold.type == AnswerType.INTEGER and climb.profile.demands_numeral:
        raise Refused(Reason.UNEVALUATED)
    used = _operations(tree)
    if used & UNDONE:
        raise Refused(Reason.UNEVALUATED)
    if gold.type == AnswerType.INTEGER and (
        "factorial" in used or (used <= ARITHMETIC and used & {"add", "multiply", "divide"})
    ):
        raise Refused(Reason.UNEVALUATED)


def _operations(tree: Node) -> set[str]:
    own = {str(tree.value) if tree.kind == "call" else tree.kind}
    return own.union(*map(_operations, tree.parts)) if tree.parts else own


def _compare(climb: Climb, gold: Gold, tree: Node, unit: str | None) -> bool:
    from egrc_mega.grading.compare import Reading, Undefined, are_equal, calls_of, constant
    from egrc_mega.grading.numerics import mp

    wanted = gold.tree if gold.tree is not None else Node("number", value=gold.value or Fraction(0))
    symbols = symbols_of(tree)
    if symbols and gold.type in (*NUMERIC, AnswerType.CLOSED_FORM):
        return climb.decided(Reason.SAMPLED, False)
    if climb.decided(Reason.SAMPLED, are_equal(wanted, tree)):
        return True
    if (gold.unit == "degree") != (unit == "degree") and not symbols and "pi" in calls_of(wanted) | calls_of(tree):
        factor = Node("call", (Node("number", value=Fraction(1)),), "degree")
        degrees = Node("multiply", (wanted if gold.unit == "degree" else tree, factor))
        pair = (degrees, tree) if gold.unit == "degree" else (wanted, degrees)
        reading = Reading(degree=mp.pi / 180)
        try:
            from egrc_mega.grading.compare import is_close

            return climb.decided(Reason.SAMPLED, is_close(constant(pair[0], reading), constant(pair[1], reading)))
        except Undefined:
            return False
    return not symbols and _is_near_expression(climb, gold, wanted, tree)


def _is_near_expression(climb: Climb, gold: Gold, wanted: Node, tree: Node) -> bool:
    """The tolerance of the set, for what is no numeral."""
    from egrc_mega.grading.compare import Reading, Undefined, constant

    if not (climb.profile.relative_tolerance or climb.profile.rounds_to_gold or gold.error):
        return False
    try:
        value = constant(tree, Reading())
        target = gold.value if gold.value is not None else constant(wanted, Reading())
    except Undefined:
        return False
    if gold.value is not None:
        return _is_near(climb, gold, value) and climb.decided(Reason.TOLERANCE, True)
    difference, size = abs(_inexact(value) - _inexact(target)), abs(_inexact(target))
    is_near = difference <= size * climb.profile.relative_tolerance or (
        gold.error is not None and difference <= _inexact(gold.error)
    )
    return is_near and climb.decided(Reason.TOLERANCE, True)


__all__ = ["NeedsChild", "scalar"]
