"""Values of expressions: exact where all is rational, else at 60 digits; what is too big is refused, not computed.

Runs in a grading process. Every operation is bounded (bits, magnitudes, terms of a series, operations in all), so that
the verdict on an expression is a function of the expression, not of the machine's speed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd, lcm

from egrc_mega.grading.numerics import (
    DIGITS,
    MAX_BITS,
    Number,
    TooBig,
    Undefined,
    binomial,
    factorial_of,
    inexact,
    log2_of,
    mp,
    power,
    root_of,
    total,
)
from egrc_mega.grading.tree import Node

MAX_ARGUMENT_LOG2 = 150
"""Of an angle: reducing it needs as many bits."""
MAX_TERMS = 1000
MAX_OPERATIONS = 10_000


@dataclass(slots=True)
class Work:
    """Operations spent on one comparison, at all its points."""

    operations: int = 0


@dataclass(slots=True)
class Evaluation:
    """How symbols and ambiguous notation are read, and how many operations have been spent."""

    symbols: Mapping[str, Fraction]
    degree: Number = Fraction(1)
    """What a degree sign outside a trigonometric function multiplies by."""
    log_base: int | None = None
    """Of a `\\log` without a base; None: natural."""
    work: Work = field(default_factory=Work)

    def value(self, node: Node) -> Number:
        """The value of a tree.

        Raises:
            TooBig, Undefined: it has none.
        """
        self.work.operations += 1
        if self.work.operations > MAX_OPERATIONS:
            raise TooBig("too many operations")
        try:
            result = _RULES[node.kind](self, node)
        except (KeyError, ValueError, ArithmeticError) as error:
            if isinstance(error, TooBig | Undefined):
                raise
            raise Undefined(str(error)) from error
        return _checked(result)


def _checked(value: Number) -> Number:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            return inexact(value)
        return value
    if not mp.isfinite(value):
        raise Undefined("no finite value")
    return value


def _number(_: Evaluation, node: Node) -> Number:
    return node.value


def _constant(_: Evaluation, node: Node) -> Number:
    if node.value == "pi":
        return +mp.pi
    if node.value == "e":
        return +mp.e
    if node.value == "i":
        return mp.mpc(0, 1)
    raise Undefined("infinity is no number")


def _symbol(evaluation: Evaluation, node: Node) -> Number:
    name = str(node.value)
    if name not in evaluation.symbols:
        raise Undefined(f"{name} has no value")
    return evaluation.symbols[name]


def _add(evaluation: Evaluation, node: Node) -> Number:
    values = [evaluation.value(part) for part in node.parts]
    return total(values)


def _pair(evaluation: Evaluation, node: Node) -> tuple[Number, Number]:
    first, second = (evaluation.value(part) for part in node.parts)
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first, second
    return inexact(first), inexact(second)


def _multiply(evaluation: Evaluation, node: Node) -> Number:
    first, second = _pair(evaluation, node)
    return first * second


def _divide(evaluation: Evaluation, node: Node) -> Number:
    first, second = _pair(evaluation, node)
    return first / second


def _negate(evaluation: Evaluation, node: Node) -> Number:
    return -evaluation.value(node.parts[0])


def _power(evaluation: Evaluation, node: Node) -> Number:
    return power(*(evaluation.value(part) for part in node.parts))


def _factorial(evaluation: Evaluation, node: Node) -> Number:
    return factorial_of(evaluation.value(node.parts[0]))


def _series(evaluation: Evaluation, node: Node) -> Number:
    """A finite sum or product with integer bounds."""
    lower, upper = (evaluation.value(part) for part in node.parts[:2])
    if not all(isinstance(bound, Fraction) and bound.denominator == 1 for bound in (lower, upper)):
        raise Undefined("bounds that are no integers")
    if upper - lower >= MAX_TERMS:
        raise TooBig("a series")
    outer = evaluation.symbols
    values = []
    for index in range(int(lower), int(upper) + 1):
        evaluation.symbols = {**outer, str(node.value): Fraction(index)}
        values.append(evaluation.value(node.parts[2]))
    evaluation.symbols = outer
    if node.kind == "sum":
        return total(values) if values else Fraction(0)
    product: Number = Fraction(1)
    for value in values:
        product = (
            product * value
            if isinstance(product, Fraction) == isinstance(value, Fraction)
            else (inexact(product) * inexact(value))
        )
        product = _checked(product)
    return product


def _call(evaluation: Evaluation, node: Node) -> Number:
    name = str(node.value)
    if name == "degree":
        first, second = evaluation.value(node.parts[0]), evaluation.degree
        return first * second if isinstance(second, Fraction) else inexact(first) * second
    if name in _ANGLES:
        return _angle_function(evaluation, node, name)
    arguments = [evaluation.value(part) for part in node.parts]
    if name == "log":
        return _logarithm(arguments, evaluation.log_base)
    return _FUNCTIONS[name](*arguments)


def _angle_function(evaluation: Evaluation, node: Node, name: str) -> Number:
    outer, evaluation.degree = evaluation.degree, mp.pi / 180
    argument = inexact(evaluation.value(node.parts[0]))
    evaluation.degree = outer
    if log2_of(argument) > MAX_ARGUMENT_LOG2:
        raise TooBig("an angle")
    if name.endswith("h") and abs(argument) > 1e9:
        raise TooBig("an exponential")
    result = getattr(mp, name)(argument)
    # sin(pi) is a rounding away from zero
    noise = mp.mpf(10) ** (5 - DIGITS) * (1 + abs(argument))
    return Fraction(0) if name in ("sin", "cos", "tan", "cot") and abs(result) < noise else result


def _logarithm(arguments: list[Number], default_base: int | None) -> Number:
    value = inexact(arguments[0])
    base = arguments[1] if len(arguments) > 1 else default_base
    if not value:
        raise Undefined("a logarithm of zero")
    result = mp.log(value)
    if base is None:
        return Fraction(0) if value == 1 else result
    return result / mp.log(inexact(base) if isinstance(base, Fraction) else mp.mpf(base))


def _exponential(value: Number) -> Number:
    value = inexact(value)
    if log2_of(value) > 40:
        raise TooBig("an exponential")
    return mp.exp(value)


def _rounded_down(value: Number) -> Number:
    if isinstance(value, Fraction):
        return Fraction(value.numerator // value.denominator)
    if mp.im(value) or log2_of(value) > 150:
        raise Undefined("no integer part")
    nearest = mp.nint(value)
    return Fraction(int(nearest if abs(value - nearest) < mp.mpf(10) ** -40 else mp.floor(value)))


def _real(value: Number) -> Number:
    if not isinstance(value, Fraction) and mp.im(value):
        raise Undefined("no real value")
    return value


def _integers(values: tuple[Number, ...]) -> list[int]:
    if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
        raise Undefined("no integers")
    return [int(value) for value in values]


def _root_call(value: Number, degree: Number) -> Number:
    if isinstance(degree, Fraction) and degree.denominator == 1 and 2 <= degree <= 100:
        return root_of(value, int(degree))
    return power(value, 1 / degree)


def _of_mp(name: str) -> Callable[[Number], Number]:
    def function(value: Number) -> Number:
        return getattr(mp, name)(inexact(value))

    return function


_ANGLES = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "arcsin": _of_mp("asin"),
    "arccos": _of_mp("acos"),
    "arctan": _of_mp("atan"),
    "arccot": _of_mp("acot"),
    "arsinh": _of_mp("asinh"),
    "arcosh": _of_mp("acosh"),
    "artanh": _of_mp("atanh"),
    "arccsc": _of_mp("acsc"),
    "arcsec": _of_mp("asec"),
    "arcoth": _of_mp("acoth"),
    "arsech": _of_mp("asech"),
    "arcsch": _of_mp("acsch"),
    "exp": _exponential,
    "ln": lambda value: _logarithm([value], None),
    "sgn": lambda value: Fraction((_real(value) > 0) - (_real(value) < 0)),
    "abs": lambda value: abs(value),
    "floor": _rounded_down,
    "ceil": lambda value: -_rounded_down(-value),
    "binom": binomial,
    "root": _root_call,
    "gcd": lambda *values: Fraction(gcd(*_integers(values))),
    "lcm": lambda *values: Fraction(lcm(*_integers(values))),
    "max": lambda *values: max(map(_real, values)),
    "min": lambda *values: min(map(_real, values)),
}
_RULES: dict[str, Callable[[Evaluation, Node], Number]] = {
    "number": _number,
    "constant": _constant,
    "symbol": _symbol,
    "add": _add,
    "multiply": _multiply,
    "divide": _divide,
    "power": _power,
    "negate": _negate,
    "factorial": _factorial,
    "sum": _series,
    "product": _series,
    "call": _call,
}
