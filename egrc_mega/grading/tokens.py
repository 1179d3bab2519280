"""The signs of an expression, the names that are known, and the place up to which a parser has read."""

import re
from typing import NoReturn

from egrc_mega.grading.tree import Node

MAX_TOKENS = 2000


class SyntaxRefusal(ValueError):
    """The text is no expression of this grammar; the message says where."""


FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "sinh", "cosh", "tanh", "coth",
    "sech", "csch", "arsinh", "arcosh", "artanh", "exp", "ln", "log", "sgn", "gcd", "lcm", "max", "min",
}  # fmt: skip
_ALIASES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arcsinh": "arsinh", "arccosh": "arcosh", "sign": "sgn",
    "arctanh": "artanh", "asinh": "arsinh", "acosh": "arcosh", "atanh": "artanh",
}  # fmt: skip
ACCENTS = {"dot", "ddot", "hat", "vec", "bar", "tilde", "overline", "overrightarrow", "widehat", "widetilde", "check"}
SYMBOLS = {
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi",
    "Sigma", "Phi", "Psi", "Omega", "hbar", "ell", "partial", "nabla", "odot", "angle", "triangle", "mho", "perp",
    "star",
}  # fmt: skip
GREEK_WORDS = SYMBOLS - {"xi", "nu", "mu", "Pi", "eta", "star", "perp", "angle", "triangle", "partial", "odot", "ell"}
APPLIED = {"f", "g", "h", "u", "F", "G", "delta", "phi", "psi", "theta", "O"}
"""Names of functions where a letter in brackets follows."""
OPENING = {"(": ")", "[": "]", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert", "{": "}"}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|\\.|[A-Za-z]+|\*\*|.)")


class Tokens:
    """The signs of one text; `at` is the next one."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def refuse(self) -> NoReturn:
        found = self.tokens[self.at] if self.at < len(self.tokens) else "the end"
        raise SyntaxRefusal(f"{found!r:.40} is not expected there")

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> bool:
        if self.peek() in wanted and self.peek():
            self.at += 1
            return True
        return False

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            self.refuse()

    def split_digits(self) -> None:
        """TeX raises only the next sign, but `x^10` is meant as it reads; `2^ab` raises `a`."""
        token = self.peek()
        if token.isalpha() and len(token) > 1 and not function_name(token) and token not in ("pi", *GREEK_WORDS):
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]

    def label(self) -> str:
        """A subscript as text."""
        if not self.take("{"):
            token = self.peek()
            if not token or not (token[0].isalnum() or token[0] == "\\"):
                self.refuse()
            if token.isalpha() and len(token) > 1:  # only the next letter
                self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
                token = token[0]
            self.at += 1
            return token.removeprefix("\\")
        start, depth = self.at, 1
        while depth:
            token = self.peek()
            if not token:
                self.refuse()
            depth += {"{": 1, "}": -1}.get(token, 0)
            self.at += 1
        inside = self.tokens[start : self.at - 1]
        return "".join(t for t in inside if t not in ("{", "}", "\\text") and t.strip("\\ ,"))

    def accented(self) -> str:
        if self.take("{"):
            start = self.at
            while self.peek() and self.peek() != "}":
                self.at += 1
            text = "".join(self.tokens[start : self.at])
            self.expect("}")
            return text
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def word(self) -> Node:
        """A word as a name: `\\text{area}`."""
        self.expect("{")
        word = ""
        while self.peek() and self.peek() != "}":
            word += self.peek()
            self.at += 1
        self.expect("}")
        if not word.isalpha():
            self.at -= 1
            self.refuse()
        return Node("symbol", value=word)

    def angle_name(self) -> Node:
        name = ""
        while self.peek().isalpha():
            name += self.peek()
            self.at += 1
        return Node("symbol", value=f"angle {name}")


def function_name(token: str) -> str:
    """The one name of a function, with or without a backslash before it; empty: it is none."""
    name = token.removeprefix("\\")
    name = _ALIASES.get(name, name)
    return name if name in FUNCTIONS else ""


def tokens_of(text: str) -> list[str]:
    """The signs of a plain text.

    Raises:
        SyntaxRefusal: there are none, or too many.
    """
    text = text.replace("np.", "").replace("numpy.", "").replace("math.", "")
    tokens = [found for found in _TOKEN.findall(text.strip()) if found.strip()]
    if not tokens:
        raise SyntaxRefusal("it is empty")
    if len(tokens) > MAX_TOKENS:
        raise SyntaxRefusal(f"it has more than {MAX_TOKENS} signs")
    return tokens
