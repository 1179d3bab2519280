"""Takes texts apart at their top level: lists, tuples, names, relations, matrices. Linear in the text."""

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\\begin\{[a-z*]+\}|\\end\{[a-z*]+\}|\\[A-Za-z]+|\\.|[][(){},;&=<>:|]", re.DOTALL)
_OPEN = {"(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\lvert"}
_CLOSE = {")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rvert"}


def pieces(text: str, separators: frozenset[str]) -> list[tuple[str, str]]:
    """The parts of a text between separators outside of all brackets: (what stood before it, part), in order.

    Thousands are no list: `1,000` stays together where a comma is followed by three digits and others by a space.
    """
    if not any(separator in text for separator in separators):
        return [("", text.strip())]
    found: list[tuple[str, str]] = []
    depth, begin, before = 0, 0, ""
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in _OPEN or sign[:6] == "\\begin":
            depth += 1
        elif sign in _CLOSE or sign[:4] == "\\end":
            depth -= 1
        elif depth == 0 and sign in separators:
            found.append((before, text[begin : token.start()].strip()))
            begin, before = token.end(), sign
    found.append((before, text[begin:].strip()))
    return found


LISTS = frozenset({",", ";", "\\and", "\\or", "&"})
EQUALS = frozenset({"=", "\\approx"})
ORDERS = {"<": "<", ">": ">", "\\leq": "<=", "\\geq": ">=", "\\neq": "!=", "\\in": "in", "\\notin": "notin"}
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


def list_parts(text: str) -> list[str]:
    """The members of a list, of a text without brackets around all."""
    if re.search(r", |;|\\and|\\or", text):
        # beside spaced separators a comma inside digits groups thousands
        text = _GROUPED.sub(lambda found: found[0].replace(",", ""), text)
    return [part for _before, part in pieces(text, LISTS) if part]


@dataclass(frozen=True, slots=True)
class Bracketed:
    """A text in brackets."""

    opening: str
    inner: str
    closing: str


def bracketed(text: str) -> Bracketed | None:
    """The brackets around the whole text and what is in them; None: they do not belong together, or are not there."""
    text = text.strip()
    if text[:1] not in ("(", "[", "\\", "{") or text[-1:] not in (")", "]", "}"):
        return None
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) < 2 or tokens[0].start() or tokens[-1].end() != len(text):
        return None
    if tokens[0][0] not in ("(", "[", "\\{", "{") or tokens[-1][0] not in (")", "]", "\\}", "}"):
        return None
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token[0] in _OPEN or token[0].startswith("\\begin")) - (
            token[0] in _CLOSE or token[0].startswith("\\end")
        )
        if depth == 0 and i < len(tokens) - 1:
            return None
    return Bracketed(tokens[0][0], text[tokens[0].end() : tokens[-1].start()].strip(), tokens[-1][0])


_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega|Gamma|Delta"
    "|Theta|Lambda|Sigma|Phi|Psi|Omega|ell|hbar"
)
_INDEX = r"(?:_(?:\w|\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\\\w+))?"
_ATOM = rf"(?:[A-Za-z]|\\(?:{_GREEK})|\\text\{{[^{{}}]*\}}){_INDEX}'*"
_NAME = re.compile(
    rf"(?:{_ATOM}(?:\([^()=]*\))?|[A-Z]{{2,4}}{_INDEX}|[A-Za-z]{{3,}}"
    rf"|(?:\||\\lvert )[A-Za-z]{{1,3}}(?:\||\\rvert)"
    rf"|(?:m|P|S|\\text\{{[^{{}}]*\}})?\\(?:angle|triangle|overline|vec|measuredangle)[^=<>,]*"
    rf"|\({_ATOM}(?:,{_ATOM})+\)|\\frac\{{d[^{{}}]*\}}\{{d[^{{}}]*\}}|(?:\\dot|\\ddot|\\bar|\\hat)\{{\w+\}})"
)
_NO_NAMES = {"e", "i", "sin", "cos", "tan", "log", "exp", "sqrt", "\\text{}"}


def is_name(text: str) -> bool:
    """Whether a compact text can be the name of a value: `x`, `f(x)`, `m_{\\max}`, `|AB|`, `\\angle ABC`, `(p,q)`."""
    return bool(_NAME.fullmatch(text)) and text not in _NO_NAMES


def split_name(text: str) -> tuple[str | None, str]:
    """`x=5` and `5=x` as (`x`, `5`); no name where the text is no such assignment or goes on with `=`."""
    parts = pieces(text, frozenset({"="}))
    if len(parts) != 2 or not all(part for _sign, part in parts):
        return None, text
    left, right = parts[0][1], parts[1][1]
    if is_name(_compact(left)):
        return _compact(left), right
    if is_name(_compact(right)) and not is_name(_compact(left)):
        return _compact(right), left
    return None, text


def _compact(text: str) -> str:
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


def relations(text: str) -> list[tuple[str, str]]:
    """A chain of relations as (sign before it, side): `2 <= x < 5` has three sides. One side: it is none."""
    return pieces(text, frozenset(ORDERS) | EQUALS)


_MATRIX = re.compile(
    r"[(\[|]?\s*\\begin\{((?:[pbBvV]|small)?matrix|array)\}\s*(?:\{[lcr| ]*\})?(.*)\\end\{\1\}\s*[)\]|]?", re.DOTALL
)


def matrix_rows(text: str) -> list[list[str]] | None:
    """The cells of a matrix or array, row by row; None: the text is none."""
    found = _MATRIX.fullmatch(text.strip())
    if not found or "\\begin" in found[2]:
        return None
    rows = [row for _before, row in pieces(found[2], frozenset({"\\\\"})) if row.replace("\\hline", "").strip()]
    return [[cell for _before, cell in pieces(row, frozenset({"&"}))] for row in rows]


def without_pm(text: str) -> list[str]:
    """The texts that a text with plus-minus signs stands for; they go together where `\\mp` is among them."""
    count = len(re.findall(r"\\pm(?![A-Za-z])", text))
    if "\\mp" in text or count > 3:
        return [
            re.sub(r"\\mp(?![A-Za-z])", lower, re.sub(r"\\pm(?![A-Za-z])", upper, text))
            for upper, lower in (("+", "-"), ("-", "+"))
        ]
    texts = [text]
    for _ in range(count):
        texts = [re.sub(r"\\pm(?![A-Za-z])", sign, each, count=1) for each in texts for sign in ("+", "-")]
    return texts
