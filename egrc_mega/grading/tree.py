"""The tree of an expression, and how its parts are put together."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Node:
    """An operation and what it is applied to; `value` is a number, or the name of a symbol or function."""

    kind: str
    """number, symbol, constant, add, multiply, divide, power, negate, call, factorial, sum, product."""
    parts: tuple["Node", ...] = ()
    value: Fraction | str = ""


def is_minus_one(node: Node) -> bool:
    """Whether a node is -1, the exponent of an inverse function."""
    return node == Node("negate", (Node("number", value=Fraction(1)),))


def raised(base: Node, exponent: Node | None) -> Node:
    """A base with an exponent, where there is one."""
    return base if exponent is None else Node("power", (base, exponent))


def labelled(base: Node, subscript: str) -> Node:
    """A symbol with its subscript as a part of its name."""
    return base if not subscript else Node("symbol", value=f"{base.value}_{subscript}")


def root(inner: Node, index: Node | int) -> Node:
    """The root of a degree."""
    degree = index if isinstance(index, Node) else Node("number", value=Fraction(index))
    return Node("call", (inner, degree), "root")


def is_mixed(whole: Node, part: Node) -> bool:
    """A mixed number: an integer before a fraction of integers that is smaller than one."""
    if whole.kind != "number" or part.kind != "divide" or not isinstance(whole.value, Fraction):
        return False
    above, below = part.parts
    if above.kind != "number" or below.kind != "number" or whole.value.denominator != 1:
        return False
    assert isinstance(above.value, Fraction) and isinstance(below.value, Fraction)
    return 0 < above.value < below.value and above.value.denominator == below.value.denominator == 1


def mixed(whole: Node, part: Node) -> Node:
    """The sum that a mixed number is."""
    return Node("add", (whole, part))


def symbols_of(*trees: Node) -> set[str]:
    """Names that have no value of their own; the variable of a sum is none."""
    found: set[str] = set()
    for tree in trees:
        if tree.kind == "symbol":
            found.add(str(tree.value))
        inner = symbols_of(*tree.parts)
        found |= inner - {str(tree.value)} if tree.kind in ("sum", "product") else inner
    return found
