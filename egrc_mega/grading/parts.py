"""Golds of several parts: tuples in order, lists in any order, matrices by cells, ratios by proportion."""

import re
from fractions import Fraction

from egrc_mega.grading.climb import MAX_PARTS, Climb, Refused
from egrc_mega.grading.gold import AnswerType, Gold
from egrc_mega.grading.markup import compact
from egrc_mega.grading.numerals import numeral
from egrc_mega.grading.relations import real_set
from egrc_mega.grading.structure import (
    ORDERS,
    bracketed,
    is_name,
    list_parts,
    matrix_rows,
    pieces,
    split_name,
    without_pm,
)
from egrc_mega.grading.syntax import Node
from egrc_mega.grading.verdicts import Reason


def listed(climb: Climb, gold: Gold, shown: str) -> bool:
    """Every part of the gold, and nothing else, in any order. Repeated parts count once."""
    parts = _members(shown)
    wanted = list({part.key + (part.name or ""): part for part in gold.parts}.values())
    if not parts or max(len(parts), len(wanted)) > MAX_PARTS:
        raise Refused(Reason.STRUCTURE)
    if len(set(map(compact, parts))) > 4 * len(wanted):
        raise Refused(Reason.STRUCTURE)
    missing = [part for part in wanted if not any(climb.tries(part, text) for text in parts)]
    if missing:
        climb.steps.append(f"missing: {missing[0].plain}")
        return False
    return all(any(climb.tries(part, text) for part in wanted) for text in parts)


def _members(shown: str) -> list[str]:
    """The members of a list: without braces, a name before them or a membership."""
    sides = pieces(shown, frozenset({"\\in"}))
    if len(sides) == 2 and is_name(compact(sides[0][1])):
        shown = sides[1][1]
    name, value = split_name(shown)
    inner = bracketed(value if name else shown)
    if inner is not None and inner.opening in ("\\{", "{"):
        shown = inner.inner
    unions = [part for _sign, part in pieces(shown, frozenset({"\\cup"}))]
    found = [member for part in unions for member in _members(part)] if len(unions) > 1 else list_parts(shown)
    return [text for part in found for text in without_pm(part)]


def ordered(climb: Climb, gold: Gold, shown: str) -> bool:
    """The parts of a tuple in their order, with or without brackets; a pair may be an interval instead."""
    if _is_relation(shown):
        return real_set(climb, gold, shown)
    name, value = split_name(shown)
    if name is not None and name.startswith("(") and not climb.names_agree(gold, name):
        return False
    text = value if name is not None and name.startswith("(") else shown
    rows = matrix_rows(text)
    if rows is not None:
        parts = [cell for row in rows for cell in row] if len(rows) == 1 or len(rows[0]) == 1 else []
    else:
        parts = _tuple_parts(gold, text)
    if len(parts) != len(gold.parts):
        return climb.decided(Reason.STRUCTURE, False)
    return all(climb.tries(part, text) for part, text in zip(gold.parts, _in_order(gold, parts), strict=True))


def _is_relation(shown: str) -> bool:
    return any(sign in shown for sign in ORDERS) or "\\cup" in shown or shown[:1] == "]" or shown[-1:] == "["


def _tuple_parts(gold: Gold, text: str) -> list[str]:
    inner = bracketed(text)
    if inner is None:
        return list_parts(text)
    own = bracketed(gold.plain)
    brackets = (own.opening, own.closing) if own else ("(", ")")
    own_brackets = (inner.opening, inner.closing)
    # three numbers in square brackets are no interval
    if own_brackets != brackets and not (len(gold.parts) > 2 and own_brackets in (("(", ")"), ("[", "]"))):
        return []
    return [part for _sign, part in pieces(inner.inner, frozenset({",", ";"}))]


def _in_order(gold: Gold, parts: list[str]) -> list[str]:
    """`x=3, y=2` for `(x,y)=(3,2)`, in whatever order; parts without names stay as they are."""
    named = dict(split_name(part) for part in parts)
    names = [part.name for part in gold.parts]
    if None not in named and all(name in named for name in names) and len(named) == len(parts):
        return [f"{named[name]}" for name in names]
    return parts


def matrix(climb: Climb, gold: Gold, shown: str) -> bool:
    """Cell by cell; a column may be written as a tuple."""
    name, value = split_name(shown)
    rows = matrix_rows(value if name else shown)
    num_rows = len(gold.parts) // gold.num_columns
    if rows is None:
        inner = bracketed(value if name else shown)
        if inner is None or inner.opening != "(" or 1 not in (gold.num_columns, num_rows):
            raise Refused(Reason.STRUCTURE)
        rows = [[part] for _sign, part in pieces(inner.inner, frozenset({",", ";"}))]
        rows = rows if gold.num_columns == 1 else [[row[0] for row in rows]]
    if len(rows) != num_rows or any(len(row) != gold.num_columns for row in rows):
        return climb.decided(Reason.STRUCTURE, False)
    cells = [cell for row in rows for cell in row]
    return all(climb.tries(part, cell) for part, cell in zip(gold.parts, cells, strict=True))


def ratio(climb: Climb, gold: Gold, shown: str) -> bool:
    """Proportional parts: `4:6` is `2:3`, and so is the fraction, for two parts."""
    sides = pieces(shown, frozenset({"="}))
    shown = sides[-1][1]
    shown = re.sub(r"\\text\{\s*to\s*\}|(?<= )to(?= )|\\to", ":", shown)
    parts = [part for _sign, part in pieces(shown, frozenset({":"}))]
    if len(parts) == 1 and len(gold.parts) == 2:
        parts.append("1")
    if len(parts) != len(gold.parts) or not all(parts):
        return climb.decided(Reason.STRUCTURE, False)
    values = [numeral(part) for part in parts]
    if all(part.value is not None for part in gold.parts) and None not in values:
        wanted = [part.value for part in gold.parts]
        is_equal = all(
            (first or Fraction(0)) * (values[0] or 0) == (wanted[0] or 0) * (second or Fraction(0))
            for first, second in zip(wanted, values, strict=True)
        )
        return climb.decided(Reason.NUMERAL, is_equal and any(values))
    return _proportional(climb, gold, parts)


def _proportional(climb: Climb, gold: Gold, parts: list[str]) -> bool:
    """By the quotients to the first part."""
    trees = [climb.tree(part) for part in parts]
    wanted = [part.tree or Node("number", value=part.value or Fraction(0)) for part in gold.parts]
    climb.needs_child()
    from egrc_mega.grading.compare import are_equal

    pairs = [
        (Node("divide", (first, wanted[0])), Node("divide", (second, trees[0])))
        for first, second in zip(wanted[1:], trees[1:], strict=True)
    ]
    return climb.decided(Reason.SAMPLED, all(are_equal(first, second) for first, second in pairs))


def is_list(gold: Gold) -> bool:
    """Whether all of several parts are wanted."""
    return gold.type == AnswerType.LIST
