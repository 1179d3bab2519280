"""Golds that are sets of real numbers, inequalities or equations."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from egrc_mega.grading.climb import Climb, Refused
from egrc_mega.grading.gold import Gold
from egrc_mega.grading.realsets import MINUS, PLUS, NotASet, RealSet, read_set
from egrc_mega.grading.structure import ORDERS, list_parts, pieces, relations, without_pm
from egrc_mega.grading.syntax import Node
from egrc_mega.grading.units import split_unit
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.words import means_nothing


def real_set(climb: Climb, gold: Gold, shown: str) -> bool:
    """The same set of real numbers, in whatever notation: relation, interval, union, set-builder."""
    if means_nothing(gold.plain) and means_nothing(shown):
        return climb.decided(Reason.WORDS, True)
    try:
        wanted = read_set(gold.plain)
    except NotASet:
        return chain(climb, gold, shown)
    try:
        found = read_set(shown)
    except (NotASet, RecursionError):
        return (
            chain(climb, gold, shown)
            if any(sign in gold.plain for sign in ORDERS)
            else climb.decided(Reason.STRUCTURE, False)
        )
    if wanted.variables() and found.variables() and wanted.variables() != found.variables():
        raise Refused(Reason.NAME)
    trees = {text: climb.tree(split_unit(text)[0]) for each in (wanted, found) for text in each.end_texts()}
    climb.needs_child()
    return climb.decided(Reason.SAMPLED, _same_set(wanted, found, trees))


def _same_set(wanted: RealSet, found: RealSet, trees: dict[str, Node]) -> bool:
    """By the values of their ends; where these hold symbols, at several points."""
    from egrc_mega.grading.compare import sample_points, symbols_of
    from egrc_mega.grading.numerics import TooBig, Undefined

    symbols = symbols_of(*trees.values())
    points: list[dict[str, Fraction]] = list(sample_points(symbols))[:4] if symbols else [{}]
    try:
        return all(_same_pieces(wanted, found, _value_at(trees, point)) for point in points)
    except TooBig:
        raise Refused(Reason.TOO_BIG) from None
    except Undefined:
        return False


def _value_at(trees: dict[str, Node], point: dict[str, Fraction]) -> Callable[[str], Any]:
    from egrc_mega.grading.evaluate import Evaluation
    from egrc_mega.grading.numerics import Undefined, inexact, mp

    def value(text: str) -> Any:
        if text in (MINUS, PLUS):
            return mp.ninf if text == MINUS else mp.inf
        number = inexact(Evaluation(point).value(trees[text]))
        if mp.im(number):
            raise Undefined("an end that is not real")
        return mp.re(number)

    return value


def _same_pieces(wanted: RealSet, found: RealSet, value: Callable[[str], Any]) -> bool:
    first, second = _rounded(wanted, value), _rounded(found, value)
    return first == second


def _rounded(chosen: RealSet, value: Callable[[str], Any]) -> list[Any]:
    """Its pieces, with ends that differ by rounding made equal."""
    from egrc_mega.grading.numerics import mp

    def shortened(text: str) -> Any:
        number = value(text)
        return number if mp.isinf(number) else mp.mpf(mp.nstr(number, 42))

    return chosen.at(shortened)


def chain(climb: Climb, gold: Gold, shown: str) -> bool:
    """The same chain of expressions, read from either end; of two sides, the same inequality up to a factor."""
    wanted, found = _ascending(gold.plain), _ascending(shown)
    if wanted is None or found is None or [s for s, _ in wanted] != [s for s, _ in found]:
        return climb.decided(Reason.STRUCTURE, False)
    trees = [[climb.tree(side) for _sign, side in each] for each in (wanted, found)]
    climb.needs_child()
    from egrc_mega.grading.compare import are_equal, is_close, ratio_of_differences
    from egrc_mega.grading.numerics import TooBig, mp

    try:
        if all(are_equal(first, second) for first, second in zip(*trees, strict=True)):
            return climb.decided(Reason.SAMPLED, True)
        if len(wanted) != 2:
            return climb.decided(Reason.SAMPLED, False)
        factor = ratio_of_differences((trees[0][0], trees[0][1]), (trees[1][0], trees[1][1]))
    except TooBig:
        raise Refused(Reason.TOO_BIG) from None
    if factor is None:
        return climb.decided(Reason.SAMPLED, False)
    is_equality = wanted[1][0] in ("=", "\\neq")
    is_positive = isinstance(factor, Fraction) or not mp.im(factor)
    return climb.decided(Reason.SAMPLED, is_equality or bool(is_positive and factor > 0 and is_close(factor, factor)))


def _ascending(text: str) -> list[tuple[str, str]] | None:
    """The sides from the smaller to the greater; None: it is no such chain."""
    sides = relations(text)
    signs = {ORDERS.get(sign, sign) for sign, _side in sides[1:]}
    if len(sides) < 2 or not all(side for _sign, side in sides) or "in" in signs or "notin" in signs:
        return None
    if signs & {">", ">="}:
        if signs & {"<", "<="}:
            return None
        order = {">": "<", "\\geq": "\\leq"}
        texts = [side for _sign, side in reversed(sides)]
        signs_back = [order.get(sign, sign) for sign, _side in reversed(sides[1:])]
        return list(zip(["", *signs_back], texts, strict=True))
    return sides


def equation(climb: Climb, gold: Gold, shown: str) -> bool:
    """The same equation up to a factor; several equations as a list."""
    found = [part for each in list_parts(shown) for part in without_pm(each)]
    if len(found) != 1:
        return climb.decided(Reason.STRUCTURE, False)
    sides = [pieces(text, frozenset({"="})) for text in (gold.plain, found[0])]
    if any(len(each) != 2 or not all(side for _sign, side in each) for each in sides):
        return climb.decided(Reason.STRUCTURE, False)
    (left, right), (other_left, other_right) = [[climb.tree(side) for _sign, side in each] for each in sides]
    climb.needs_child()
    from egrc_mega.grading.compare import ratio_of_differences
    from egrc_mega.grading.numerics import TooBig

    try:
        factor = ratio_of_differences((left, right), (other_left, other_right))
    except TooBig:
        raise Refused(Reason.TOO_BIG) from None
    return climb.decided(Reason.SAMPLED, factor is not None)
