"""Compares two expressions by their values, relatively at high precision: constants once, others at seeded points."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from zlib import crc32

from egrc_mega.grading.evaluate import Evaluation, Work
from egrc_mega.grading.numerics import Number, TooBig, Undefined, inexact, mp
from egrc_mega.grading.tree import Node, symbols_of

CLOSE = mp.mpf(10) ** -40
"""Relative difference of equal numbers."""
NUM_POINTS = 6
MIN_AGREEING = 2
COUNTING = set("nkmNjMKpqr")
"""Letters that may stand for integers: where the expressions agree at integers only, that is enough for these."""
RANGES = ((1, 4), (-1, 4), (20, 80), (110, 390), (-90, -20), (-390, -110))
"""Of the samples, in hundredths: the first two are small integers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read ambiguous notation."""

    degree: Number = Fraction(1)
    log_base: int | None = None
    work: Work = field(default_factory=Work, compare=False)
    """Shared by all evaluations of one comparison."""


def calls_of(tree: Node) -> set[str]:
    """Names of the functions, constants and operations in a tree."""
    own = {str(tree.value) if tree.kind in ("call", "constant") else tree.kind}
    return own.union(*map(calls_of, tree.parts)) if tree.parts else own


def is_close(first: Number, second: Number) -> bool:
    """Equal: exactly where both are exact, else relatively to 40 digits."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    first, second = inexact(first), inexact(second)
    return bool(abs(first - second) <= CLOSE * max(abs(first), abs(second)))


def constant(tree: Node, reading: Reading) -> Number:
    """The value of an expression without symbols.

    Raises:
        TooBig, Undefined: it has none.
    """
    return Evaluation({}, reading.degree, reading.log_base, reading.work).value(tree)


def are_equal(gold: Node, answer: Node) -> bool:
    """Whether two expressions are equal: as constants, or at every seeded point where both have a real value.

    Raises:
        TooBig: the answer cannot be evaluated within the bounds.
    """
    symbols = symbols_of(gold)
    if symbols != symbols_of(answer):
        return False
    return any(
        _agree(gold, answer, symbols, gold_reading, answer_reading)
        for gold_reading, answer_reading in _readings(gold, answer)
    )


def _readings(gold: Node, answer: Node) -> Iterator[tuple[Reading, Reading]]:
    """A degree sign counts for nothing beside a number of degrees, and is pi/180 beside radians; log has two bases."""
    plain = Reading()
    yield plain, plain
    gold_calls, answer_calls = calls_of(gold), calls_of(answer)
    if ("degree" in gold_calls) != ("degree" in answer_calls):
        radians = Reading(degree=mp.pi / 180, work=plain.work)
        yield radians, radians
    if "log" in gold_calls | answer_calls:
        decimal = Reading(log_base=10, work=plain.work)
        yield decimal, decimal
        if "ln" in gold_calls | answer_calls:
            return
        yield plain, decimal
        yield decimal, plain


def _agree(gold: Node, answer: Node, symbols: set[str], first: Reading, second: Reading) -> bool:
    if not symbols:
        try:
            return is_close(constant(gold, first), constant(answer, second))
        except Undefined:
            return False
    return _agree_at_points(gold, answer, symbols, first, second)


def _agree_at_points(gold: Node, answer: Node, symbols: set[str], first: Reading, second: Reading) -> bool:
    """Equal at every point where both are real, and at two of them at least.

    Where no point is real, complex values must agree. Expressions in letters that count things may differ elsewhere
    than at integers.
    """
    calls = calls_of(gold) | calls_of(answer)
    is_complex = "i" in calls
    points = list(sample_points(symbols))
    if calls & {"floor", "ceil"}:  # small arguments are often rounded to the same integer
        points += [{name: 97 * abs(value) for name, value in point.items()} for point in points]
    agreeing = 0
    for point in points:
        pair = _values(gold, answer, point, first, second)
        if pair is None:
            continue
        if is_close(*pair):
            agreeing += 1
        elif is_complex or all(_is_real(value) for value in pair):
            return symbols <= COUNTING and _agree_at_integers(gold, answer, symbols, first, second)
    if agreeing < MIN_AGREEING:
        return _agree_at_integers(gold, answer, symbols, first, second)
    return True


def _agree_at_integers(gold: Node, answer: Node, symbols: set[str], first: Reading, second: Reading) -> bool:
    """For what is defined on integers only, such as sums up to n."""
    agreeing = 0
    for i in range(5):
        point = {name: Fraction(2 + i + crc32(f"{name}{i}".encode()) % 7) for name in symbols}
        pair = _values(gold, answer, point, first, second)
        if pair is None:
            continue
        if not is_close(*pair):
            return False
        agreeing += 1
    return agreeing > MIN_AGREEING


def _values(
    gold: Node, answer: Node, point: dict[str, Fraction], first: Reading, second: Reading
) -> tuple[Number, Number] | None:
    """Both values at a point; None where one has none."""
    try:
        return (
            Evaluation(point, first.degree, first.log_base, first.work).value(gold),
            Evaluation(point, second.degree, second.log_base, second.work).value(answer),
        )
    except Undefined:
        return None


def sample_points(symbols: set[str]) -> Iterator[dict[str, Fraction]]:
    """The points at which expressions are compared: the same for the same names, small, of both signs."""
    for i, (low, high) in enumerate(RANGES[2:]):
        yield {name: Fraction(low + crc32(f"{name}/{i}".encode()) % (high - low), 100) for name in sorted(symbols)}
    for i in range(NUM_POINTS - 4):
        yield {name: Fraction(30 + crc32(f"{name}#{i}".encode()) % 470, 100) for name in sorted(symbols)}


def _is_real(value: Number) -> bool:
    return isinstance(value, Fraction) or not isinstance(value, mp.mpc) or not value.imag


def ratio_of_differences(gold: tuple[Node, Node], answer: tuple[Node, Node]) -> Fraction | Number | None:
    """The factor between (left - right) of two relations, where it is the same at all points; None: it is not.

    Raises:
        TooBig: a side cannot be evaluated within the bounds.
    """
    first, second = (Node("add", (left, Node("negate", (right,)))) for left, right in (gold, answer))
    symbols = symbols_of(first, second)
    if symbols_of(first) != symbols_of(second):
        return None
    ratio: Number | None = None
    reading = Reading()
    num_agreeing = 0
    for point in sample_points(symbols):
        pair = _values(first, second, point, reading, reading)
        if pair is None or not pair[0] or not pair[1]:
            if pair is not None and bool(pair[0]) != bool(pair[1]):
                return None
            continue
        here = pair[0] / pair[1] if type(pair[0]) is type(pair[1]) else inexact(pair[0]) / inexact(pair[1])
        if ratio is not None and not is_close(here, ratio):
            return None
        ratio, num_agreeing = here, num_agreeing + 1
    return ratio if num_agreeing > MIN_AGREEING else None


__all__ = ["Reading", "TooBig", "Undefined", "are_equal", "constant", "is_close", "ratio_of_differences", "symbols_of"]
