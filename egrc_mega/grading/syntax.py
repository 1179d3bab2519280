"""Parses one mathematical expression, in LaTeX or program notation, into a small tree. It evaluates nothing.

An own parser, because of what a reward needs: no number is fished out of a text that does not parse, no string is
executed, the time is linear and the depth bounded. What it does not know it refuses.
"""

from fractions import Fraction

from egrc_mega.grading.tokens import (
    ACCENTS,
    APPLIED,
    GREEK_WORDS,
    OPENING,
    SYMBOLS,
    SyntaxRefusal,
    Tokens,
    function_name,
    tokens_of,
)
from egrc_mega.grading.tree import Node, is_minus_one, is_mixed, labelled, mixed, raised, root

MAX_DEPTH = 60
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")


def parse_expression(text: str) -> Node:
    """The tree of a plain text (`markup.plain`).

    Raises:
        SyntaxRefusal: it is no single expression, or too long or deep.
    """
    parser = _Parser(tokens_of(text))
    try:
        tree = parser.sum_or_binomial()
    except RecursionError:
        raise SyntaxRefusal("it is nested too deep") from None
    if parser.at < len(parser.tokens):
        parser.refuse()
    return tree


class _Parser(Tokens):
    """Reads by recursive descent, a method for each level of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        super().__init__(tokens)
        self.depth, self.bars = 0, 0

    def sum_of_terms(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SyntaxRefusal(f"it is nested more than {MAX_DEPTH} deep")
        terms = [self.term()]
        while self.peek() in ("+", "-"):
            terms.append(self.term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def term(self) -> Node:
        """Signs, then factors joined by `*`, `/` or nothing."""
        is_negative = False
        while self.peek() in ("+", "-"):
            is_negative ^= self.peek() == "-"
            self.at += 1
        product = self.factors()
        return Node("negate", (product,)) if is_negative else product

    def factors(self, *, implicit_only: bool = False) -> Node:
        result = self.juxtaposed(implicit_only)
        while not implicit_only and self.peek() in ("*", "/"):
            is_division = self.peek() == "/"
            self.at += 1
            right = self.signed_juxtaposed()
            result = Node("divide" if is_division else "multiply", (result, right))
        return result

    def signed_juxtaposed(self) -> Node:
        if self.take("-"):
            return Node("negate", (self.signed_juxtaposed(),))
        if self.take("+"):
            return self.signed_juxtaposed()
        return self.juxtaposed(False)

    def juxtaposed(self, in_argument: bool) -> Node:
        """`2x y`: factors side by side. After a slash too: `1/2x` is 1/(2x) to nobody who writes LaTeX.

        So a slash takes one factor where digits are divided by digits: `1/2 x` is x/2.
        """
        factors = [self.power()]
        is_divisor = self.at >= 2 and self.tokens[self.at - 2] == "/" and factors[0].kind == "number"
        while not is_divisor and self.starts_a_factor(in_argument):
            factor = self.power()
            if factor.kind == "number" and factors[-1].kind == "number":
                self.refuse()  # two numbers side by side are no product
            factors.append(mixed(factors.pop(), factor) if is_mixed(factors[-1], factor) else factor)
        result = factors[0]
        for factor in factors[1:]:
            result = Node("multiply", (result, factor))
        return result

    def starts_a_factor(self, in_argument: bool) -> bool:
        token = self.peek()
        if (
            not token
            or token in ")]}+-*/^_!',;=<>%&:"
            or token in ("\\rfloor", "\\rceil", "\\rvert", "\\choose", "\\}")
        ):
            return False
        if token == "|":
            return self.bars == 0
        if in_argument and (function_name(token) or token in ("\\sum", "\\prod", "(", "[")):
            return False
        return token[0].isalnum() or token[0] in "([{.\\"

    def power(self) -> Node:
        """A factor with what stands at its upper and lower right: subscripts, exponents, factorials, primes."""
        base = self.atom()
        subscript, exponent = "", None
        while True:
            if self.peek() == "_" and base.kind in ("symbol", "call"):
                self.at += 1
                subscript += self.label()
            elif self.peek() in ("^", "**"):
                if exponent is not None:
                    self.refuse()
                self.at += 1
                exponent = self.exponent()
            elif self.peek() == "!":
                self.at += 1
                base = Node("factorial", (raised(labelled(base, subscript), exponent),))
                subscript, exponent = "", None
            elif self.peek() == "'":
                self.at += 1
                subscript += "'"
            elif base.kind == "symbol" and self.is_application(str(base.value)):
                subscript += f"({self.tokens[self.at + 1]})"
                self.at += 3
            elif self.peek() == "\\degree":
                self.at += 1
                base = Node("call", (raised(labelled(base, subscript), exponent),), "degree")
                subscript, exponent = "", None
            else:
                break
        if subscript and exponent is not None and base.value == "C" and "'" not in subscript:
            chosen = _subexpression(subscript)
            if chosen is not None and not _is_small_label(subscript):
                return Node("call", (chosen, exponent), "binom")
        return raised(labelled(base, subscript), exponent)

    def is_application(self, name: str) -> bool:
        """`I(0)` and `f(x)` are values of functions, `n(k)` is a product."""
        argument, closing = [*self.tokens[self.at + 1 : self.at + 3], "", ""][:2]
        if self.peek() != "(" or closing != ")":
            return False
        return argument.isdigit() or (name in APPLIED and len(argument) == 1 and argument.isalpha())

    def exponent(self) -> Node:
        if self.take("{"):
            node = self.sum_of_terms()
            self.expect("}")
            return node
        if self.take("-"):
            return Node("negate", (self.exponent(),))
        self.split_digits()
        return self.power() if self.tokens[self.at - 1] == "**" else self.atom()

    def group(self, closing: str) -> Node:
        bars, self.bars = self.bars, 0
        node = self.sum_of_terms()
        self.expect(closing)
        self.bars = bars
        return node

    def atom(self) -> Node:
        token = self.peek()
        if not token:
            self.refuse()
        if token[0].isdigit() or token[0] == ".":
            return self.number()
        if token in OPENING:
            return self.bracketed()
        if token == "|":
            return self.between_bars()
        if token[0].isalpha():
            return self.letters()
        if token[0] == "\\":
            return self.macro()
        self.refuse()

    def number(self) -> Node:
        token = self.peek()
        if not token.strip("."):
            self.refuse()
        self.at += 1
        return Node("number", value=Fraction(token.removesuffix(".")))

    def bracketed(self) -> Node:
        token = self.peek()
        self.at += 1
        inner = self.sum_of_terms_or_choose() if token == "{" else self.group(OPENING[token])
        kind = {"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs"}.get(token)
        return Node("call", (inner,), kind) if kind else inner

    def sum_of_terms_or_choose(self) -> Node:
        bars, self.bars = self.bars, 0
        node = self.sum_or_binomial()
        self.expect("}")
        self.bars = bars
        return node

    def sum_or_binomial(self) -> Node:
        """A sum, or `n \\choose k` between braces or alone."""
        node = self.sum_of_terms()
        return Node("call", (node, self.sum_of_terms()), "binom") if self.take("\\choose") else node

    def between_bars(self) -> Node:
        if self.bars:
            self.refuse()
        self.at += 1
        self.bars += 1
        inner = self.sum_of_terms()
        self.bars -= 1
        self.expect("|")
        return Node("call", (inner,), "abs")

    def letters(self) -> Node:
        """A run of letters: a function, `pi`, a Greek letter by name, or a product of one-letter names."""
        token = self.peek()
        if name := function_name(token):
            return self.function(name)
        if token in ("sqrt", "cbrt"):
            self.at += 1
            return root(self.argument(), 2 if token == "sqrt" else 3)
        if token in ("abs", "floor", "ceil"):
            self.at += 1
            return Node("call", (self.argument(),), token)
        if token == "pi":
            self.at += 1
            return Node("constant", value="pi")
        if token in GREEK_WORDS:
            self.at += 1
            return Node("symbol", value=token)
        for name in ("arcsin", "arccos", "arctan", "sqrt", "sin", "cos", "tan", "exp", "log", "ln", "pi"):
            if token.endswith(name) and len(token) > len(name):
                self.tokens[self.at : self.at + 1] = [token[: -len(name)], name]
                break
        else:
            if len(token) > 1:
                self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        letter = self.peek()
        if len(letter) > 1:
            self.tokens[self.at : self.at + 1] = [letter[0], letter[1:]]
            letter = letter[0]
        self.at += 1
        return Node("constant", value=letter) if letter in ("e", "i") else Node("symbol", value=letter)

    def macro(self) -> Node:
        name = self.peek()[1:]
        if function := function_name(name):
            return self.function(function)
        self.at += 1
        if name in ("pi", "infty"):
            return Node("constant", value=name)
        if name in SYMBOLS:
            return self.angle_name() if name in ("angle", "triangle") else Node("symbol", value=name)
        if name in ("frac", "binom"):
            first = self.tex_argument()
            return (
                Node("divide", (first, self.tex_argument()))
                if name == "frac"
                else (Node("call", (first, self.tex_argument()), "binom"))
            )
        if name == "sqrt":
            return self.root()
        if name in ACCENTS:
            return Node("symbol", value=f"{name} {self.accented()}")
        if name == "text":
            return self.word()
        if name in ("sum", "prod"):
            return self.series("sum" if name == "sum" else "product")
        self.at -= 1
        self.refuse()

    def tex_argument(self) -> Node:
        """A group, or the next sign: `\\frac12`."""
        if self.take("{"):
            node = self.group("}")
            return node
        token = self.peek()
        if len(token) > 1 and token.isdigit():
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        elif len(token) > 1 and token.isalpha():
            self.split_digits()
        return self.atom()

    def root(self) -> Node:
        index: Node | int = 2
        if self.take("["):
            index = self.group("]")
        if self.peek() == "{":
            inner = self.tex_argument()
        elif self.peek().replace(".", "").isdigit() or self.peek() in OPENING:
            inner = self.atom()  # `\sqrt 12` and `\sqrt(12)` have one sensible reading
        else:
            inner = self.tex_argument()
        return root(inner, index)

    def function(self, name: str) -> Node:
        """`\\sin^2 x`, `\\log_{10} 250`, `\\sin(x)/2`, `\\sin 2x \\cos y`."""
        self.at += 1
        exponent: Node | None = None
        base: Node | None = None
        while self.peek() in ("^", "_"):
            if self.take("^"):
                exponent = self.exponent()
            else:
                self.at += 1
                base = self.tex_argument()
        arguments = (self.argument(),) if name not in ("gcd", "lcm", "max", "min") else self.arguments()
        if base is not None and name == "log":
            arguments += (base,)
        if name in _TRIGONOMETRIC and exponent is not None and is_minus_one(exponent):
            inverse = f"ar{name}" if name.endswith("h") else f"arc{name}"
            return Node("call", arguments, inverse)
        return raised(Node("call", arguments, name), exponent)

    def argument(self) -> Node:
        """In brackets or braces, or factors side by side up to the next function or sign."""
        if self.peek() in ("(", "["):
            closing = OPENING[self.peek()]
            self.at += 1
            return self.group(closing)
        if self.take("-"):
            return Node("negate", (self.argument(),))
        if self.peek() == "{":
            return self.tex_argument()
        if function_name(self.peek()):
            return self.atom()
        return self.factors(implicit_only=True)

    def arguments(self) -> tuple[Node, ...]:
        opening = self.peek()
        if opening not in ("(", "{", "\\{"):
            self.refuse()
        self.at += 1
        found = [self.sum_of_terms()]
        while self.take(","):
            found.append(self.sum_of_terms())
        self.expect({"(": ")", "{": "}", "\\{": "\\}"}[opening])
        return tuple(found)

    def series(self, kind: str) -> Node:
        """`\\sum_{k=1}^{n} k^2`: the variable, its bounds and what is added up."""
        lower: Node | None = None
        upper: Node | None = None
        variable = ""
        for _ in range(2):
            if self.take("_"):
                self.expect("{")
                variable = self.peek()
                if not variable.isalpha() or len(variable) > 1:
                    self.refuse()
                self.at += 1
                self.expect("=")
                lower = self.sum_of_terms()
                self.expect("}")
            elif self.take("^"):
                upper = self.exponent()
        if lower is None or upper is None:
            self.refuse()
        return Node(kind, (lower, upper, self.factors()), variable)


def _subexpression(text: str) -> Node | None:
    try:
        return parse_expression(text)
    except SyntaxRefusal:
        return None


def _is_small_label(subscript: str) -> bool:
    """`C_1^2` is the square of a constant, `C_{10}^2` counts pairs."""
    return subscript in ("0", "1", "2", "3")


__all__ = ["Node", "SyntaxRefusal", "parse_expression"]
