"""Exact values of numerals, in every spelling that data sets and models use, without any mathematics library."""

import re
from fractions import Fraction
from functools import lru_cache

from egrc_mega.grading.markup import compact

MAX_DIGITS = 1000
MAX_EXPONENT = 999
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"([\d.,]+) ?(?:\\text\{{ ?)?({'|'.join(_SCALES)}) ?\}}?", re.IGNORECASE)
_SPACED = re.compile(r"[-+]?\d{1,3}(?: \d{3})+(?:\.\d+)?")
_DECIMAL = re.compile(_NUMBER)
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\overline\{(\d+)\}|\\bar\{(\d+)\}|((?:\\dot\{?\d\}?\d*)+)|\((\d+)\))(?:\\ldots)?"
)
_POWER = r"10\^(?:\{([-+]?\d+)\}|\(([-+]?\d+)\)|([-+]?\d+))"
_SCIENTIFIC = re.compile(rf"(?:({_NUMBER})(?:\*|x|X))?{_POWER}")
_E_NOTATION = re.compile(rf"({_NUMBER})\s?[eE]([-+]?\d+)")
_SIDE = rf"[-+]?{_NUMBER}"
_FRACTION = re.compile(
    rf"\\frac(?:\{{({_SIDE})\}}|(?:(?<=c) )?(\d))(?:\{{({_SIDE})\}}|(\d))"
    rf"|({_NUMBER})/({_SIDE})|\{{({_SIDE})\}}/\{{({_SIDE})\}}|\(({_SIDE})\)/\(?({_SIDE})\)?"
)
_MIXED = re.compile(r"(\d+) ?(\\frac.*|(?<= )\d+/\d+)")


@lru_cache(maxsize=65536)
def numeral(text: str) -> Fraction | None:
    """The exact value of a plain text that is a numeral and nothing else; None: it is none.

    Takes decimals, thousands in groups, fractions, mixed and repeating numbers, powers of ten up to 10^±999.
    """
    if ", " in text:
        return None  # a list: thousands are grouped without spaces
    if _SPACED.fullmatch(text.strip()):
        text = text.replace(" ", "")
    text = _bare(compact(text))
    sign = 1
    if text[:1] in ("+", "-"):
        sign, text = (-1 if text[0] == "-" else 1), _bare(text[1:].lstrip())
    if not text or len(text) > MAX_DIGITS + 100 or not any(map(str.isdigit, text)):
        return None
    value = _unsigned(text)
    return None if value is None else sign * value


def _bare(text: str) -> str:
    text = text.strip()
    while len(text) > 2 and text[0] + text[-1] in ("{}", "()") and not any(c in "(){}," for c in text[1:-1]):
        text = text[1:-1].strip()
    return text


def _unsigned(text: str) -> Fraction | None:
    if text.isdigit():
        return Fraction(int(text)) if len(text) <= MAX_DIGITS else None
    if _DECIMAL.fullmatch(text):
        return Fraction(text.removesuffix("."))
    if _GROUPED.fullmatch(text):
        return Fraction(text.replace(",", ""))
    for spelling in (_scaled, _scientific, _fraction, _repeating, _mixed):
        value = spelling(text)
        if value is not None:
            return value
    return None


def _scaled(text: str) -> Fraction | None:
    """The value of `2.5 million` and its like."""
    found = _SCALED.fullmatch(text)
    value = _unsigned(found[1].strip()) if found else None
    return None if found is None or value is None else value * 10 ** _SCALES[found[2].lower()]


def _scientific(text: str) -> Fraction | None:
    found = _SCIENTIFIC.fullmatch(text)
    if found:
        mantissa, *exponents = found.groups()
        exponent = next(e for e in exponents if e is not None)
    elif found := _E_NOTATION.fullmatch(text):
        mantissa, exponent = found.groups()
    else:
        return None
    if len(exponent) > 4 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return Fraction((mantissa or "1").removesuffix(".")) * Fraction(10) ** int(exponent)


def _fraction(text: str) -> Fraction | None:
    found = _FRACTION.fullmatch(text)
    if not found:
        return None
    above, below = [Fraction(part.removesuffix(".")) for part in found.groups() if part is not None]
    return above / below if below else None


def _repeating(text: str) -> Fraction | None:
    """`0.1\\overline{6}` and its like."""
    found = _REPEATING.fullmatch(text)
    if not found:
        return None
    whole, fixed, *spellings = found.groups()
    period = re.sub(r"\D", "", next(s for s in spellings if s is not None))
    if len(fixed) + len(period) > MAX_DIGITS:
        return None
    repeated = Fraction(int(period), 10 ** len(period) - 1)
    return int(whole or "0") + (int(fixed or "0") + repeated) / Fraction(10 ** len(fixed))


def _mixed(text: str) -> Fraction | None:
    """`3\\frac{1}{2}` and `3 1/2`, where the fraction is a proper one."""
    found = _MIXED.fullmatch(text)
    part = _fraction(found[2]) if found else None
    if not found or part is None or not 0 < part < 1:
        return None
    return Fraction(int(found[1])) + part


def decimals_of(text: str) -> int | None:
    """Digits after the point of a decimal numeral; None: it is no such numeral."""
    found = re.fullmatch(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.(\d*))?", text.strip())
    return None if not found or not any(map(str.isdigit, text)) else len(found[1] or "")


def rounds_to(value: Fraction, shown: Fraction, decimals: int) -> bool:
    """Whether a value, rounded to so many decimals, is the one that is shown."""
    return abs(value - shown) * 2 * 10**decimals <= 1
