"""Values of expressions: exact where they are rational, precise elsewhere, and refused before they are too big."""

from fractions import Fraction

import pytest

from egrc_mega.grading.evaluate import Evaluation
from egrc_mega.grading.markup import plain
from egrc_mega.grading.numerics import TooBig, Undefined, inexact, mp
from egrc_mega.grading.syntax import SyntaxRefusal, parse_expression


def value_of(text: str, **symbols: int) -> object:
    return Evaluation({name: Fraction(number) for name, number in symbols.items()}).value(parse_expression(plain(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2^{100}+1", Fraction(2**100 + 1)),
        ("\\frac{1}{2004!}\\cdot 2005!", Fraction(2005)),
        ("\\sqrt{\\frac{4}{9}}", Fraction(2, 3)),
        ("\\sqrt[3]{-8}", Fraction(-2)),
        ("\\binom{10}{3}", Fraction(120)),
        ("C_{10}^{3}", Fraction(120)),
        ("{10 \\choose 3}", Fraction(120)),
        ("\\lfloor -\\frac{7}{2} \\rfloor", Fraction(-4)),
        ("\\lceil \\pi \\rceil", Fraction(4)),
        ("|3-5|", Fraction(2)),
        ("\\left|3-5\\right|", Fraction(2)),
        ("\\sum_{k=1}^{10} k^2", Fraction(385)),
        ("\\prod_{k=1}^{5} k", Fraction(120)),
        ("\\sin 180^\\circ", Fraction(0)),
        ("\\cos 60^\\circ", Fraction(1, 2)),
        ("\\sqrt{2}\\cdot\\sqrt{2}-2", Fraction(0)),
        ("e^{i\\pi}+1", Fraction(0)),
        ("3\\frac12", Fraction(7, 2)),
        ("3\\cdot\\frac12", Fraction(3, 2)),
        ("3!^2", Fraction(36)),
        ("2x y", Fraction(30)),
        ("x^2 y'", None),
        ("\\log_2 8", Fraction(3)),
    ],
)
def test_values_are_those_of_mathematics(text: str, expected: Fraction | None) -> None:
    if expected is None:
        with pytest.raises(Undefined, match="y_' has no value"):
            value_of(text, x=3, y=5)
        return
    difference = abs(inexact(value_of(text, x=3, y=5)) - inexact(expected))
    assert difference <= mp.mpf(10) ** -55 * max(1, abs(expected.numerator))


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9^9}}",
        "2^{10^{15}}",
        "(10^7)!",
        "5001!",
        "\\binom{10^9}{5\\cdot 10^8}",
        "\\Pi^{10^{13}}",
        "\\sum_{k=1}^{10^9} k",
        "\\sum_{i=1}^{1999}\\sum_{j=1}^{1999} ij",
        "\\sin(10^{60})",
        "\\sinh(10^{10})",
        "\\exp(10^{20})",
        "(10^{20}\\pi)!",
    ],
)
def test_what_is_too_big_is_refused_before_it_is_computed(text: str) -> None:
    evaluation = Evaluation({"Pi": Fraction(22, 7)})
    with pytest.raises(TooBig):
        evaluation.value(parse_expression(plain(text)))
    assert evaluation.work.operations <= 10_001


@pytest.mark.parametrize("text", ["1/0", "\\ln 0", "\\tan x^{-1}", "\\infty", "(-1)!", "\\max(i, 1)", "\\gcd(1/2, 3)"])
def test_what_has_no_value_says_so(text: str) -> None:
    with pytest.raises(Undefined):
        value_of(text, x=0)


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "2+", "(2", "2)", "2 3", "x ? 5", "\\foo", "2 \\text{a b 1}", "a = b", "1,2", "2^", "^2", "2^2^2",
        "\\frac{1}", "\\sqrt", "||", "x_", "\\sum x", "\\sum_{k}^{3} k", "\\int x", "4 \\ldots", "__import__('os')",
        "(" * 99 + "4" + ")" * 99,
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(SyntaxRefusal):
        parse_expression(plain(text))
