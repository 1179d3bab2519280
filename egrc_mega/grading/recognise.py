"""Gives a plain text its type: rule by rule, from numbers in a base to expressions."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

from egrc_mega.grading.kinds import NUMERIC, AnswerType, Gold, GoldError
from egrc_mega.grading.markup import compact
from egrc_mega.grading.mathverify import is_beyond
from egrc_mega.grading.numerals import decimals_of, numeral
from egrc_mega.grading.realsets import is_real_set
from egrc_mega.grading.structure import (
    EQUALS,
    ORDERS,
    bracketed,
    list_parts,
    matrix_rows,
    pieces,
    relations,
    split_name,
    without_pm,
)
from egrc_mega.grading.syntax import Node, SyntaxRefusal, parse_expression
from egrc_mega.grading.tree import symbols_of
from egrc_mega.grading.units import split_unit
from egrc_mega.grading.words import base_numeral, clock_time, is_words, words_of


def typed(shown: str) -> Gold:
    """The gold in a plain text, by the first rule that knows it.

    Raises:
        GoldError: none does.
    """
    for rule in (
        _base,
        _time,
        _numeric,
        _choice,
        _matrix,
        _list,
        _named,
        _interval,
        _relation,
        _tuple,
        _ratio,
        _equation,
    ):
        gold = rule(shown)
        if gold is not None:
            return gold
    if is_words(shown):
        return _words(shown)
    return _expression(shown)


def _base(shown: str) -> Gold | None:
    return Gold(text=shown, plain=shown, type=AnswerType.BASE) if base_numeral(compact(shown)) else None


def _time(shown: str) -> Gold | None:
    if clock_time(shown) is None:
        return None
    ratio = None if re.search(r":0|[a-zA-Z]", shown) else _ratio(shown)
    return Gold(text=shown, plain=shown, type=AnswerType.TIME, alternatives=(ratio,) if ratio else ())


def _numeric(shown: str) -> Gold | None:
    number, unit = split_unit(shown)
    value = numeral(number)
    if value is None:
        return None
    kind = AnswerType.INTEGER if value.denominator == 1 else AnswerType.RATIONAL
    if unit == "%":
        kind = AnswerType.PERCENT
    elif (kind == AnswerType.RATIONAL and decimals_of(number) is not None) or (
        re.search(r"\.\d*[1-9]|\*10\^|\de", number) and kind == AnswerType.INTEGER and "." in number
    ):
        kind = AnswerType.DECIMAL
    gold = Gold(text=shown, plain=number, type=kind, value=value, unit=unit)
    return replace(gold, alternatives=_list_of_groups(number))


def _list_of_groups(number: str) -> tuple[Gold, ...]:
    """`60,180` is the number or the list; only the set knows, so both are right. `1,000` is no list."""
    groups = number.split(",")
    if len(groups) < 2 or any(not group.isdigit() or group.startswith("0") for group in groups):
        return ()
    parts = tuple(Gold(text=g, plain=g, type=AnswerType.INTEGER, value=Fraction(g)) for g in groups)
    return (Gold(text=number, plain=number, type=AnswerType.LIST, parts=parts),)


def _choice(shown: str) -> Gold | None:
    found = re.fullmatch(r"(?:\\text\{)?\(?([A-J])\)?\}?[.):]?", shown.strip())
    if found:
        return Gold(text=shown, plain=found[1], type=AnswerType.CHOICE)
    found = re.fullmatch(r"\(?([A-J])\s*[.):]\s*(.+)", shown, re.DOTALL) if not re.match(r"[A-J]:", shown) else None
    if not found:
        return None
    value: tuple[Gold, ...] = ()
    with suppress(GoldError):
        value = (typed(found[2].strip()),)
    return Gold(text=shown, plain=found[1], type=AnswerType.CHOICE, alternatives=value)


def _matrix(shown: str) -> Gold | None:
    rows = matrix_rows(shown)
    if not rows:
        return None
    if len({len(row) for row in rows}) != 1:
        raise GoldError("its matrix has rows of different lengths")
    cells = tuple(typed(cell) for row in rows for cell in row)
    return Gold(text=shown, plain=shown, type=AnswerType.MATRIX, parts=cells, num_columns=len(rows[0]))


def _list(shown: str) -> Gold | None:
    inner = bracketed(shown)
    is_set = inner is not None and inner.opening in ("\\{", "{") and not re.search(r"\||(?<!\\):", inner.inner)
    if inner is not None and is_set and not (inner.opening == "{" and "," not in inner.inner):
        return _list_of(shown, list_parts(inner.inner))
    parts = list_parts(shown)
    if len(parts) > 1 and is_real_set(shown) and any(sign in shown for sign in ("<", ">", "\\leq", "\\geq", "\\neq")):
        return Gold(text=shown, plain=shown, type=AnswerType.INTERVAL)
    if len(parts) == 1 and "\\pm" in shown:
        parts = without_pm(shown)
    return _list_of(shown, parts) if len(parts) > 1 else None


def _list_of(shown: str, parts: list[str]) -> Gold:
    texts = [text for part in parts for text in (without_pm(part) if "\\pm" in part else [part])]
    dotted = ("\\ldots", "\\ldots ")
    golds = tuple(
        Gold(text=text, plain="\\ldots", type=AnswerType.WORDS) if text.strip() in dotted else typed(text)
        for text in texts
    )
    prose = [gold for gold in golds if gold.type == AnswerType.WORDS and len(words_of(gold.plain).split()) > 3]
    if prose and len(prose) < len(golds):
        raise GoldError(f"the answer is prose, which only a person can compare: {shown!r:.80}")
    return Gold(text=shown, plain=shown, type=AnswerType.LIST, parts=golds)


def _named(shown: str) -> Gold | None:
    name, value = split_name(shown)
    if name is None:
        return None
    gold = typed(value)
    # a value that speaks of its own name is an equation: y = x y + 1
    if re.fullmatch(r"[A-Za-z]", name) and gold.tree is not None and name in symbols_of(gold.tree):
        return None
    if gold.type == AnswerType.TUPLE and name.startswith("("):
        names = [compact(part) for _sign, part in pieces(name[1:-1], frozenset({","}))]
        if len(names) == len(gold.parts):
            return replace(gold, parts=tuple(replace(p, name=n) for n, p in zip(names, gold.parts, strict=True)))
    return replace(gold, text=shown, name=name)


def _interval(shown: str) -> Gold | None:
    if not is_real_set(shown):
        return None
    if any(sign in ORDERS and sign != "\\in" for sign, _side in relations(shown)):
        return Gold(text=shown, plain=shown, type=AnswerType.INEQUALITY)
    inner = bracketed(shown)
    if inner and inner.opening == "(" and inner.closing == ")" and "\\infty" not in inner.inner:
        return None  # a pair, which an interval may answer
    return Gold(text=shown, plain=shown, type=AnswerType.INTERVAL)


def _relation(shown: str) -> Gold | None:
    """A chain of expressions such as `f(2) < f(1) < f(4)` or an inequality in several variables."""
    chain = relations(shown)
    if len(chain) < 2 or not any(sign in ORDERS for sign, _side in chain):
        return None
    if any(sign in ("\\in", "\\notin") for sign, _side in chain):
        raise GoldError(f"{shown!r:.80} is a membership that cannot be compared")
    for _sign, side in chain:
        _tree(side)
    return Gold(text=shown, plain=shown, type=AnswerType.INEQUALITY)


def _equation(shown: str) -> Gold | None:
    chain = pieces(shown, EQUALS)
    if len(chain) < 2:
        return None
    if not chain[0][1]:
        return typed(chain[1][1])  # `\approx 8.24`
    if chain[1][0] == "\\approx" or "%" in chain[1][1]:
        return typed(chain[0][1])  # an exact value, and what it is about
    if len(chain) > 2:
        return typed(chain[-1][1])  # x = ... = value
    for _sign, side in chain:
        _tree(side)
    return Gold(text=shown, plain=shown, type=AnswerType.EQUATION)


def _tuple(shown: str) -> Gold | None:
    inner = bracketed(shown)
    if inner is None or inner.opening not in ("(", "[") or not re.search("[,;]", inner.inner):
        return None
    parts = [part for _sign, part in pieces(inner.inner, frozenset({",", ";"}))]
    if len(parts) < 2 or not all(parts):
        return None
    return Gold(text=shown, plain=shown, type=AnswerType.TUPLE, parts=tuple(typed(part) for part in parts))


def _ratio(shown: str) -> Gold | None:
    value = pieces(shown, frozenset({"="}))[-1][1]
    parts = [part for _sign, part in pieces(value, frozenset({":"}))]
    if len(parts) < 2 or not all(parts) or is_words(shown):
        return None
    return Gold(text=shown, plain=shown, type=AnswerType.RATIO, parts=tuple(typed(part) for part in parts))


MAX_WORDS = 8


def _words(shown: str) -> Gold:
    words = words_of(shown)
    if len(words.split()) > MAX_WORDS:
        raise GoldError(f"the answer is prose, which only a person can compare: {shown!r:.80}")
    return Gold(text=shown, plain=shown, type=AnswerType.WORDS)


def _expression(shown: str) -> Gold:
    formula, unit = split_unit(shown)
    if is_beyond(formula):
        return Gold(text=shown, plain=formula, type=AnswerType.EXPRESSION, unit=unit)
    tree = _tree(formula)
    has_symbols = bool(symbols_of(tree))
    kind = AnswerType.EXPRESSION if has_symbols else AnswerType.CLOSED_FORM
    if unit == "%" and not has_symbols:
        raise GoldError(f"a percentage that is no numeral: {shown!r:.80}")
    return Gold(text=shown, plain=formula, type=kind, tree=tree, unit=unit)


def _tree(text: str) -> Node:
    try:
        return parse_expression(text)
    except SyntaxRefusal as error:
        raise GoldError(f"the answer does not parse: {error}, in {text!r:.80}") from None


def forced(shown: str, answer_type: str) -> Gold:
    """The gold in a plain text, read as the type that the configuration states.

    Raises:
        GoldError: there is no such type, or the text is none of it.
    """
    if answer_type not in set(AnswerType):
        raise GoldError(f"answer_type {answer_type!r} is unknown; choose from {', '.join(AnswerType)}")
    wanted = AnswerType(answer_type)
    if wanted == AnswerType.DECIMAL:
        shown = re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", shown)  # the comma of most of Europe
    gold = _RULES[wanted](shown)
    if gold is None or (gold.type != wanted and wanted in (*NUMERIC, AnswerType.MATRIX, AnswerType.TUPLE)):
        raise GoldError(f"the answer {shown!r:.80} is no {wanted.value}, as data.answer_type says")
    return gold


_RULES: dict[AnswerType, Callable[[str], Gold | None]] = {
    AnswerType.INTEGER: _numeric,
    AnswerType.RATIONAL: _numeric,
    AnswerType.DECIMAL: _numeric,
    AnswerType.PERCENT: _numeric,
    AnswerType.CLOSED_FORM: _expression,
    AnswerType.EXPRESSION: _expression,
    AnswerType.EQUATION: lambda shown: _named(shown) or _equation(shown),
    AnswerType.INEQUALITY: lambda shown: _interval(shown) or _relation(shown),
    AnswerType.INTERVAL: lambda shown: (
        Gold(text=shown, plain=shown, type=AnswerType.INTERVAL) if is_real_set(shown) else None
    ),
    AnswerType.TUPLE: lambda shown: _tuple(shown) or _tuple(f"({shown})"),
    AnswerType.LIST: lambda shown: _list(shown) or _list_of(shown, list_parts(shown)),
    AnswerType.MATRIX: _matrix,
    AnswerType.RATIO: _ratio,
    AnswerType.TIME: _time,
    AnswerType.BASE: _base,
    AnswerType.CHOICE: _choice,
    AnswerType.WORDS: _words,
}
