"""Numbers that are exact fractions where they can be, and else have 60 digits; nothing grows beyond its bounds."""

from fractions import Fraction
from math import comb, factorial, isqrt
from typing import Any

from mpmath import MPContext

DIGITS = 60
MAX_BITS = 100_000
"""Of an exact number; a power beyond is computed at 60 digits."""
MAX_LOG2 = 1e12
"""Of a number's magnitude."""
MAX_FACTORIAL = 5000
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


def inexact(value: Number) -> Number:
    """The number at 60 digits."""
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def log2_of(value: Number) -> float:
    """About the binary logarithm of a magnitude; -inf for zero."""
    if isinstance(value, Fraction):
        return float(value.numerator.bit_length() - value.denominator.bit_length()) if value else float("-inf")
    magnitude = mp.mag(value)
    return float(magnitude) if magnitude != mp.ninf else float("-inf")


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


def binomial(n: Number, k: Number) -> Number:
    """The binomial coefficient, by the gamma function where the numbers are no integers."""
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
