"""Sets of real numbers in every notation: intervals and unions, relations, set-builders, points. Read as texts.

A set is a union of pieces; the ends are texts until `RealSet.at` evaluates them, in a grading process.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egrc_mega.grading.structure import ORDERS, bracketed, list_parts, pieces, relations

Number = Any
Value = Callable[[str], Number]
Piece = tuple[Number, bool, Number, bool]
"""Lower end, whether it belongs, upper end, whether it belongs."""
MINUS, PLUS = "-\\infty", "\\infty"
_MIRROR = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
_VARIABLE = re.compile(
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|theta|lambda|mu|omega|phi|rho|sigma|tau|xi))(?:_(?:\w|\{\w+\}))?"
)
_UNIONS = frozenset({"\\cup"})


class NotASet(ValueError):
    """The text is no set of real numbers."""


@dataclass(frozen=True, slots=True)
class RealSet:
    """A union or a difference of sets, or one piece with its ends as texts."""

    kind: str
    """piece, union, meet, minus, either (what `,` between relations means is seen only by their values)."""
    parts: tuple["RealSet", ...] = ()
    ends: tuple[str, bool, str, bool] | None = None
    variable: str | None = None

    def variables(self) -> set[str]:
        """Names of the variables that its relations and memberships are about."""
        own = {self.variable} if self.variable else set()
        return own.union(*(part.variables() for part in self.parts))

    def end_texts(self) -> list[str]:
        """The ends of all pieces, infinite ones left out."""
        own = [text for text in (self.ends[0], self.ends[2]) if text not in (MINUS, PLUS)] if self.ends else []
        return own + [text for part in self.parts for text in part.end_texts()]

    def at(self, value: Value) -> list[Piece]:
        """Its disjoint pieces in order, by the values of the ends."""
        if self.ends is not None:
            low, has_low, high, has_high = self.ends
            return _normalised([(value(low), has_low, value(high), has_high)])
        sets = [part.at(value) for part in self.parts]
        if self.kind == "minus":
            return _meet(sets[0], _complement(sets[1], value))
        if self.kind == "meet":
            return _meet_all(sets)
        if self.kind == "either":
            return _meet_all(sets) or _normalised([piece for each in sets for piece in each])
        return _normalised([piece for each in sets for piece in each])


def is_real_set(text: str) -> bool:
    """Whether a plain text is written as a set of real numbers (a pair in round brackets is, too)."""
    try:
        read_set(text)
    except (NotASet, RecursionError):
        return False
    return True


def read_set(text: str) -> RealSet:
    """The set that a plain text describes.

    Raises:
        NotASet: it describes none that is known here.
    """
    text = text.strip()
    if not text or len(text) > 1000:
        raise NotASet
    if re.fullmatch(r"[\[\](][^\[\]()]*,[^\[\]()]*[\[\])]", text):  # `]0,1[` is (0,1)
        text = text[0].replace("]", "(") + text[1:-1] + text[-1].replace("[", ")")
    for reader in (_union, _difference, _relations, _named_set, _brackets):
        found = reader(text)
        if found is not None:
            return found
    raise NotASet


def _union(text: str) -> RealSet | None:
    parts = [part for _sign, part in pieces(text, _UNIONS)]
    members = [part for _sign, part in pieces(text, frozenset({"\\or", "\\and", ","})) if part]
    if len(parts) == 1 and len(members) > 1 and all(_is_interval(member) for member in members):
        parts = members
    if len(parts) > 1:
        variable, first = _membership(parts[0])
        sets = [read_set(part) for part in (first, *parts[1:])]
        return RealSet("union", tuple(sets), variable=variable)
    meets = [part for _sign, part in pieces(text, frozenset({"\\cap"}))]
    return RealSet("meet", tuple(map(read_set, meets))) if len(meets) > 1 else None


def _is_interval(text: str) -> bool:
    inner = bracketed(text)
    return inner is not None and inner.opening in ("(", "[") and "," in inner.inner


def _membership(text: str) -> tuple[str | None, str]:
    sides = pieces(text, frozenset({"\\in"}))
    if len(sides) == 2 and _is_variable(sides[0][1]):
        return sides[0][1], sides[1][1]
    return None, text


def _difference(text: str) -> RealSet | None:
    sides = [part for _sign, part in pieces(text, frozenset({"\\setminus"}))]
    if len(sides) == 1:
        split = re.fullmatch(r"(.*\\mathbb\{R\})\s*-\s*(\\\{.*\\\})", text)
        sides = [split[1], split[2]] if split else sides
    if len(sides) != 2:
        return None
    variable, whole = _membership(sides[0])
    return RealSet("minus", (read_set(whole), read_set(sides[1])), variable=variable)


def _relations(text: str) -> RealSet | None:
    """`a <= x < b`, `x != 5`, `x < 1 or x > 3`, `0 < x < 6, x != 3`."""
    if not any(sign in text for sign in ORDERS):
        return None
    if bracketed(text) is not None:
        return None
    members = pieces(text, frozenset({",", ";", "\\and", "\\or"}))
    members = [(sign, part) for sign, part in members if part]
    if len(members) == 1:
        return _one_relation(members[0][1])
    sets = [_one_relation(part) for _sign, part in members]
    variables = {each.variable for each in sets}
    if len(variables) != 1:
        raise NotASet
    has_or = any(sign == "\\or" for sign, _part in members)
    excluded = any("\\neq" in part for _sign, part in members)
    return RealSet("union" if has_or else "meet" if excluded else "either", tuple(sets))


def _one_relation(text: str) -> RealSet:
    chain = relations(text)
    if len(chain) == 2 and chain[1][0] == "\\in" and _is_variable(chain[0][1]):
        inner = read_set(chain[1][1])
        return RealSet("union", (inner,), variable=chain[0][1])
    if len(chain) == 2 and chain[1][0] == "=" and _is_variable(chain[0][1]):
        return RealSet("piece", ends=(chain[1][1], True, chain[1][1], True), variable=chain[0][1])
    signs = [ORDERS.get(sign, sign) for sign, _side in chain[1:]]
    sides = [side for _sign, side in chain]
    if not all(sides) or any(sign not in _MIRROR for sign in signs):
        raise NotASet
    if len(sides) == 2:
        within = _absolute(sides[0], signs[0], sides[1]) or _absolute(sides[1], _MIRROR[signs[0]], sides[0])
        return within or _half_line(sides[0], signs[0], sides[1])
    if len(sides) == 3 and _is_variable(sides[1]):
        left = _half_line(sides[1], _MIRROR[signs[0]], sides[0])
        right = _half_line(sides[1], signs[1], sides[2])
        return RealSet("meet", (left, right), variable=sides[1])
    raise NotASet


_ABSOLUTE = re.compile(r"(?:\||\\lvert )\s*([A-Za-z])\s*(?:([-+])\s*([^|\\]+?))?\s*(?:\||\\rvert)")


def _absolute(left: str, sign: str, right: str) -> RealSet | None:
    """`|x - a| < r` and its like."""
    found = _ABSOLUTE.fullmatch(left.strip())
    if not found or sign not in ("<", "<=", ">", ">=") or _mentions(right, found[1]):
        return None
    name, minus, shift = found.groups()
    centre = "0" if shift is None else shift if minus == "-" else f"-({shift})"
    low, high, has_end = f"{centre}-({right})", f"{centre}+({right})", sign in ("<=", ">=")
    if sign in ("<", "<="):
        return RealSet("piece", ends=(low, has_end, high, has_end), variable=name)
    below = RealSet("piece", ends=(MINUS, False, low, has_end), variable=name)
    above = RealSet("piece", ends=(high, has_end, PLUS, False), variable=name)
    return RealSet("union", (below, above), variable=name)


def _half_line(left: str, sign: str, right: str) -> RealSet:
    if not _is_variable(left):
        left, sign, right = right, _MIRROR[sign], left
    if not _is_variable(left) or _mentions(right, left):
        raise NotASet
    if sign == "!=":
        below = RealSet("piece", ends=(MINUS, False, right, False), variable=left)
        above = RealSet("piece", ends=(right, False, PLUS, False), variable=left)
        return RealSet("union", (below, above), variable=left)
    if sign in ("<", "<="):
        return RealSet("piece", ends=(MINUS, False, right, sign == "<="), variable=left)
    if sign in (">", ">="):
        return RealSet("piece", ends=(right, sign == ">=", PLUS, False), variable=left)
    raise NotASet


def _named_set(text: str) -> RealSet | None:
    variable, text = _membership(text)
    compacted = text.replace(" ", "")
    if compacted in ("\\mathbb{R}", "\\text{allrealnumbers}", "allrealnumbers"):
        return RealSet("piece", ends=(MINUS, False, PLUS, False), variable=variable)
    if compacted in ("\\mathbb{R}^+", "\\mathbb{R}^{+}", "\\mathbb{R}_+", "\\mathbb{R}_{+}"):
        return RealSet("piece", ends=("0", False, PLUS, False), variable=variable)
    if compacted == "\\emptyset":
        return RealSet("union", (), variable=variable)
    return RealSet("union", (read_set(text),), variable=variable) if variable else None


def _brackets(text: str) -> RealSet | None:
    inner = bracketed(text)
    if inner is None:
        return None
    if inner.opening in ("\\{", "{"):
        return _set_in_braces(inner.inner)
    parts = [part for _sign, part in pieces(inner.inner, frozenset({",", ";"}))]
    if len(parts) == 1 and inner.opening == "(":
        return read_set(parts[0]) if any(sign in text for sign in ("\\cup", "<", ">", "\\leq", "\\geq")) else None
    if len(parts) != 2 or not all(parts):
        return None
    return RealSet("piece", ends=(_end(parts[0]), inner.opening == "[", _end(parts[1]), inner.closing == "]"))


def _end(text: str) -> str:
    compacted = text.replace(" ", "")
    return compacted if compacted in (MINUS, PLUS) else text


def _set_in_braces(inner: str) -> RealSet:
    builder = pieces(inner, frozenset({"|", ":"}))
    if len(builder) == 2:
        variable, domain = _membership(builder[0][1])
        name = variable or builder[0][1]
        if not _is_variable(name) or (variable and domain.strip() != "\\mathbb{R}"):
            raise NotASet
        condition = re.sub(
            r",\s*[A-Za-z]\s*\\in\s*\\mathbb\{R\}\s*$|[A-Za-z]\s*\\in\s*\\mathbb\{R\}\s*,", "", builder[1][1]
        )
        return RealSet("union", (read_set(condition),), variable=name)
    if len(builder) > 2:
        raise NotASet
    if any(sign in inner for sign in ORDERS):
        return read_set(inner)
    points = list_parts(inner)
    return RealSet("union", tuple(RealSet("piece", ends=(point, True, point, True)) for point in points))


def _is_variable(text: str) -> bool:
    return bool(_VARIABLE.fullmatch(text.strip())) and text.strip() not in ("e", "i")


def _mentions(text: str, variable: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z\\]){re.escape(variable)}(?![A-Za-z_])", text))


def _normalised(found: list[Piece]) -> list[Piece]:
    """In order, disjoint, without empty ones."""
    kept = [p for p in found if p[0] < p[2] or (p[0] == p[2] and p[1] and p[3])]
    kept.sort(key=lambda p: (p[0], not p[1]))
    merged: list[Piece] = []
    for low, has_low, high, has_high in kept:
        if merged and (low < merged[-1][2] or (low == merged[-1][2] and (has_low or merged[-1][3]))):
            before = merged.pop()
            top = max((before[2], before[3]), (high, has_high))
            merged.append((before[0], before[1], *top))
        else:
            merged.append((low, has_low, high, has_high))
    return merged


def _meet(first: list[Piece], second: list[Piece]) -> list[Piece]:
    found = []
    for a in first:
        for b in second:
            low, not_low = max((a[0], not a[1]), (b[0], not b[1]))
            high, has_high = min((a[2], a[3]), (b[2], b[3]))
            found.append((low, not not_low, high, has_high))
    return _normalised(found)


def _meet_all(sets: list[list[Piece]]) -> list[Piece]:
    result = sets[0]
    for each in sets[1:]:
        result = _meet(result, each)
    return result


def _complement(found: list[Piece], value: Value) -> list[Piece]:
    edges: list[tuple[Number, bool]] = [(value(MINUS), True)]
    for low, has_low, high, has_high in found:
        edges += [(low, has_low), (high, has_high)]
    edges.append((value(PLUS), True))
    return _normalised([(*_other(edges[i]), *_other(edges[i + 1])) for i in range(0, len(edges), 2)])


def _other(edge: tuple[Number, bool]) -> tuple[Number, bool]:
    return edge[0], not edge[1]
