"""Values of expressions: exact where all is rational, else at 60 digits; what is too big is refused, not computed.

Runs in a grading process. Every operation is bounded (bits, magnitudes, terms of a series, operations in all), so that
the verdict on an expression is a function of the expression, not of the machine's speed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial, gcd, isqrt, lcm
from typing import Any

from mpmath import MPContext

from egrc_mega.grading.syntax import Node

DIGITS = 60
MAX_BITS = 100_000
"""Of an exact number; a power beyond is computed at 60 digits."""
MAX_LOG2 = 1e12
"""Of a number's magnitude."""
MAX_ARGUMENT_LOG2 = 150
"""Of an angle: reducing it needs as many bits."""
MAX_FACTORIAL = 5000
MAX_TERMS = 2000
MAX_OPERATIONS = 20_000
CANCELLED = Fraction(1, 10**50)
"""A sum so much smaller than its terms is zero: what is left is rounding."""

mp = MPContext()
mp.dps = DIGITS

Number = Any
"""A Fraction, or a real or complex number of `mp`."""


class TooBig(ValueError):
    """The expression cannot be evaluated within the bounds."""


class Undefined(ValueError):
    """The expression has no value there: a pole, a logarithm of zero, a symbol that has none."""


@dataclass(slots=True)
class Evaluation:
    """How symbols and ambiguous notation are read, and how many operations have been spent."""

    symbols: Mapping[str, Fraction]
    degree: Number = Fraction(1)
    """What a degree sign outside a trigonometric function multiplies by."""
    log_base: int | None = None
    """Of a `\\log` without a base; None: natural."""
    operations: int = 0

    def value(self, node: Node) -> Number:
        """The value of a tree.

        Raises:
            TooBig, Undefined: it has none.
        """
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
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


def inexact(value: Number) -> Number:
    """The number at 60 digits."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def log2_of(value: Number) -> float:
    """About the binary logarithm of a magnitude; -inf for zero."""
    if isinstance(value, Fraction):
        return float(value.numerator.bit_length() - value.denominator.bit_length()) if value else float("-inf")
    magnitude = mp.mag(value)
    return float(magnitude) if magnitude != mp.ninf else float("-inf")


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


def total(values: list[Number]) -> Number:
    """The sum; zero where all that is left of larger terms is rounding."""
    if all(isinstance(value, Fraction) for value in values):
        return sum(values, Fraction(0))
    result = mp.mpf(0)
    for value in values:
        result = result + inexact(value)
    largest = max(abs(inexact(value)) for value in values)
    if abs(result) <= largest * inexact(CANCELLED):
        return Fraction(0)
    if isinstance(result, mp.mpc):
        return _without_noise(result, largest)
    return result


def _without_noise(value: Number, scale: Number) -> Number:
    limit = scale * inexact(CANCELLED)
    real = mp.mpf(0) if abs(value.real) <= limit else value.real
    imaginary = mp.mpf(0) if abs(value.imag) <= limit else value.imag
    return mp.mpc(real, imaginary) if imaginary else real


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


def power(base: Number, exponent: Number) -> Number:
    """A power, exact for rational bases and integer exponents of bounded size; odd roots of negatives are negative."""
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _integer_power(base, int(exponent))
    if isinstance(exponent, Fraction) and exponent.denominator <= 12:
        root = root_of(base, exponent.denominator)
        return _integer_power(root, exponent.numerator)
    base, exponent = inexact(base), inexact(exponent)
    if not base:
        if mp.re(exponent) > 0:
            return Fraction(0)
        raise Undefined("a power of zero")
    if float(abs(exponent) if abs(exponent) < 1e300 else 1e300) * max(1.0, abs(log2_of(base))) > MAX_LOG2:
        raise TooBig("a power")
    return mp.power(base, exponent)


def _integer_power(base: Number, exponent: int) -> Number:
    if exponent == 0:
        return Fraction(1)
    size = abs(exponent) * max(1.0, abs(log2_of(base))) if base else 0.0
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent)
        if base in (0, 1, -1) or bits <= MAX_BITS:
            return base**exponent
    if size > MAX_LOG2:
        raise TooBig("a power")
    return mp.power(inexact(base), exponent)


def root_of(value: Number, degree: int) -> Number:
    """The root, exact where it is rational; the real one of a negative number where the degree is odd."""
    if isinstance(value, Fraction):
        if value < 0 and degree % 2:
            return -root_of(-value, degree)
        if value >= 0 and value.numerator.bit_length() + value.denominator.bit_length() < 4000:
            above, below = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
            if above is not None and below is not None:
                return Fraction(above, below)
    value = inexact(value)
    if degree % 2 and mp.im(value) == 0 and mp.re(value) < 0:
        return -mp.root(-mp.re(value), degree)
    return mp.sqrt(value) if degree == 2 else mp.root(value, degree)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = isqrt(value)
        return root if root * root == value else None
    if value in (0, 1):
        return value
    root = int(mp.nint(mp.root(mp.mpf(value), degree))) if value.bit_length() < 190 else 0
    return root if root**degree == value else None


def _factorial(evaluation: Evaluation, node: Node) -> Number:
    return factorial_of(evaluation.value(node.parts[0]))


def factorial_of(value: Number) -> Number:
    """The factorial, by the gamma function where n is no integer."""
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Undefined("a factorial of a negative number")
        if value > MAX_FACTORIAL:
            raise TooBig("a factorial")
        return Fraction(factorial(int(value)))
    if log2_of(value) > 20:
        raise TooBig("a factorial")
    return mp.gamma(inexact(value) + 1)


def _binomial(n: Number, k: Number) -> Number:
    if all(isinstance(value, Fraction) and value.denominator == 1 for value in (n, k)) and n >= 0:
        if k < 0 or k > n:
            return Fraction(0)
        few = int(min(k, n - k))
        if few * max(1, int(n).bit_length()) > MAX_BITS or few > 2 * MAX_FACTORIAL:
            raise TooBig("a binomial")
        return Fraction(comb(int(n), few))
    if max(log2_of(n), log2_of(k)) > 20:
        raise TooBig("a binomial")
    return mp.binomial(inexact(n), inexact(k))


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
    "binom": _binomial,
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
