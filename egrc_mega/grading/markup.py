"""Takes off what only changes how a text looks, and gives every symbol one name. Linear in the text."""

import re
from functools import lru_cache

from egrc_mega.grading.braces import brace_pairs
from egrc_mega.grading.characters import in_ascii

_TEXT = "text|textbf|textit|textrm|textsf|texttt|textnormal|textup|textsl|mbox|hbox|emph|rm|mathrm|operatorname|mathop"
_LOOK = (
    "mathbf|mathit|mathsf|mathtt|mathnormal|boldsymbol|bm|pmb|underline|uline|mathcal|mathscr|mathfrak|bold|ensuremath"
)
_WRAPPER = re.compile(
    rf"\\(?:(?P<colour>(?:text)?color|colorbox)|(?P<text>{_TEXT})\*?|(?P<look>{_LOOK}))(?![A-Za-z])\s*(?=\{{)"
)
_OLD_FONT = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt)\s+([^{}\\]*)\}")
_INVISIBLE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|sf|tt|boldmath|strut|tiny|small|large|Large|LARGE|huge|Huge|normalsize|footnotesize|bfseries|centering"
    r"|mathstrut|nonumber|notag|allowbreak|relax|label\{[^{}]*\}|tag\{[^{}]*\})(?![A-Za-z])\s?"
)
_PHANTOM = re.compile(r"\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\\{}])")
_EMPTY_DELIMITER = re.compile(r"\\(?:left|right)\s*\.")
_BARS = re.compile(r"\\(left|right)\s*(?:\||\\[lr]?vert(?![A-Za-z]))")
_DIGIT_SPACE = re.compile(r"(?<=\d)(?:\{,\}|,?\\[!,;: ]\s?|,\\!\s*)(?=\d{3}(?!\d))")
_SPACE = re.compile(
    r"(?<!\\)\\[,;:!> ~]|~|\\(?:quad|qquad|thinspace|enspace|medspace|space|hfill|newline)(?![A-Za-z])"
    r"|\\[hv]space\*?\{[^{}]*\}"
)
_NAMES = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom",
    "times": "*", "cdot": "*", "ast": "*", "cdotp": "*", "bullet": "*", "div": "/", "le": r"\leq", "leqslant": r"\leq",
    "leqq": r"\leq", "ge": r"\geq", "geqslant": r"\geq", "geqq": r"\geq", "ne": r"\neq", "lt": "<", "gt": ">",
    "leq": r"\leq", "geq": r"\geq", "varnothing": r"\emptyset", "O": r"\emptyset", "infin": r"\infty",
    "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "langle": "(", "rangle": ")", "lparen": "(",
    "rparen": ")", "dots": r"\ldots", "cdots": r"\ldots", "dotsc": r"\ldots", "dotsb": r"\ldots", "mid": "|",
    "vert": "|", "Vert": "|", "colon": ":", "land": r"\and", "wedge": r"\and",
    "lor": r"\or", "vee": r"\or", "smallsetminus": r"\setminus", "backslash": r"\setminus", "circ": r"\degree",
    "varepsilon": r"\epsilon", "varphi": r"\phi", "vartheta": r"\theta", "varrho": r"\rho", "simeq": r"\approx",
    "thickapprox": r"\approx", "doteq": r"\approx", "tg": r"\tan", "ctg": r"\cot", "arctg": r"\arctan", "sh": r"\sinh",
    "ch": r"\cosh", "lg": r"\log_{10}", "asin": r"\arcsin", "acos": r"\arccos", "atan": r"\arctan", "R": r"\mathbb{R}",
    "Z": r"\mathbb{Z}", "N": r"\mathbb{N}", "Q": r"\mathbb{Q}", "C": r"\mathbb{C}", "Reals": r"\mathbb{R}",
    "reals": r"\mathbb{R}", "prime": "'", "percent": "%", "textpercent": "%", "dollar": "", "textdollar": "",
    "textdegree": r"\degree", "euro": "", "pounds": "", "imath": "i", "jmath": "j", "ominus": "-", "choose": r"\choose",
    "to": r"\to", "rightarrow": r"\to",
}  # fmt: skip
_NAME = re.compile(r"\\([A-Za-z]+)")
_DEGREE = re.compile(r"(?:\{\})?\^\s*(?:\{\s*\\degree\s*\}|\\degree(?![A-Za-z])|\{\s*[oO]\s*\})")
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{\s*(\\text\s*\{[^{}]*\}(?:\^\{?\d\}?)?)\s*\}\s*\{\s*(\\text\s*\{[^{}]*\}(?:\^\{?\d\}?)?)\s*\}"
)
_PRIMES = re.compile(r"\^\s*\{\s*('(?:\s*')*)\s*\}|\^\s*(')")
_WORD_IN_TEXT = re.compile(r"\\(?:text|mbox|textrm|textnormal)\s*\{\s*(,?\s*(?:and|or|&)\s*,?|,|;)\s*\}", re.IGNORECASE)
_BARE_AND = re.compile(r"(?<![A-Za-z\\{])(and|or)(?![A-Za-z}])", re.IGNORECASE)
_BRACED_NUMBER = re.compile(r"(?<![\w}\])^_\\/])\{([-+]?\d[\d.,]*)\}")
_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "ln", "log",
    "lcm", "gcd", "max", "min", "det", "sgn", "lim", "arsinh", "arccot", "sech", "csch", "coth",
})  # fmt: skip
LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
"""A space that separates nothing."""


@lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """The text in one notation: ASCII, one name for each symbol, no dollars, fonts, colours or sizes.

    Words stay in `\\text{...}`; "and" and "or" between answers become `\\and` and `\\or`. Spaces that separate stay.
    """
    text = in_ascii(text).replace("\n", " ").replace("\t", " ")
    if "\\" in text or "{" in text or "~" in text:
        text = _latex(text)
    text = text.replace("$", "")
    text = text.replace(">=", "\\geq ").replace("<=", "\\leq ").replace(" !=", " \\neq ").replace("==", "=")
    text = _BARE_AND.sub(lambda found: f" \\{found[1].lower()} ", text) if _is_list_of_values(text) else text
    return _trimmed(" ".join(text.split()))


def without_domain(text: str) -> str:
    """A plain text without `k \\in \\mathbb{Z}` at its end, which only says that a letter counts."""
    shorter = _DOMAIN.sub("", text).strip()
    return shorter or text


def compact(text: str) -> str:
    """A plain text without the spaces that separate nothing: what is compared letter by letter."""
    return LOOSE_SPACE.sub("", text)


def _latex(text: str) -> str:
    text = text.replace("\\(", " ").replace("\\)", " ").replace("\\$", "")
    text = text.replace("\\[", " ").replace("\\]", " ") if text.lstrip().startswith("\\[") else text
    text = _OLD_FONT.sub(r"\\text{\1}", text)
    text = _BARS.sub(lambda found: "\\lvert " if found[1] == "left" else "\\rvert ", text)
    text = _INVISIBLE.sub(" ", _EMPTY_DELIMITER.sub(" ", _PHANTOM.sub(" ", text)))
    text = _DIGIT_SPACE.sub("", text)
    text = _SPACE.sub(" ", text)
    text = _unwrapped(_WORD_IN_TEXT.sub(_conjunction, text))
    text = _NAME.sub(_renamed, text).replace("\\%", "%").replace("\\&", "&").replace("\\#", "#").replace("\\_", "_")
    text = _PRIMES.sub(lambda found: re.sub(r"\s", "", found[1] or found[2]), text)
    text = _UNIT_FRACTION.sub(r" \1/\2", text)
    text = _DEGREE.sub(lambda _: "\\degree ", text)
    text = re.sub(r"\\\{\s*\\\}", r"\\emptyset ", text)
    text = re.sub(r"([+])\s*\\infty", r"\\infty", text)
    return _BRACED_NUMBER.sub(r"\1", text)


def _unwrapped(text: str) -> str:
    """Fonts and colours taken off; every kind of text is `\\text{...}`."""
    pairs = brace_pairs(text)
    edits: list[tuple[int, int, str]] = []
    for found in _WRAPPER.finditer(text):
        end = pairs.get(found.end())
        if end is None:
            continue
        if found["colour"]:
            edits.append((found.start(), end + 1, " "))
        elif found["look"]:
            edits.append(
                (found.start(), found.end(), " " if found.start() and text[found.start() - 1].isalpha() else "")
            )
        else:
            edits += _text_edits(text, found.start(), found.end(), end)
    return _edited(text, edits)


def _text_edits(text: str, start: int, opening: int, end: int) -> list[tuple[int, int, str]]:
    """A number, one letter of mathematics, a formula or a function's name loses the text around it; words keep it."""
    content = text[opening + 1 : end].strip()
    is_unit = content in ("min", "sec") and not text.startswith("\\operatorname", start)
    if content in _FUNCTIONS and not is_unit:
        return [(start, end + 1, f"\\{content} ")]
    if content in (",", ";"):
        return [(start, end + 1, f"{content} ")]
    is_roman = text.startswith("\\mathrm", start) or text.startswith("\\rm", start)
    if is_roman and content in ("e", "i", "d", "j"):
        return [(start, end + 1, f"{{{content}}}" if start and text[start - 1] in "^_" else f" {content} ")]
    if not content or re.fullmatch(r"[^A-Za-z]*", content) or _is_list_of_values(content) or "$" in content:
        return (
            [(start, opening, " "), (opening, opening + 1, "{"), (end, end + 1, "}")]
            if content
            else [(start, end + 1, " ")]
        )
    return [(start, opening, "\\text")]


def _is_list_of_values(text: str) -> bool:
    """True of `12 and 13`, not of `1 and every prime`: words are no list of values."""
    if not re.search(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", text, re.IGNORECASE):
        return False
    without = re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z ]*\})?", "", text)
    words = re.findall(r"[A-Za-z]{2,}", without)
    return (
        bool(words)
        and all(word.lower() in ("and", "or") or _is_symbolic(word) for word in words)
        and bool(
            re.search(r"[^A-Za-z]", without.replace("and", "").replace("or", "").strip())
            or re.search(r"\b[A-Za-z]\b", without)
        )
    )


def _is_symbolic(word: str) -> bool:
    """A product of letters rather than a word: `ab`, `AB`, `xy`."""
    return (
        word.isupper()
        or (len(word) <= 2 and word.lower() not in ("no", "on", "is", "in", "to", "if", "of", "at"))
        or (word in _FUNCTIONS or word in ("pi", "sqrt"))
    )


def _renamed(found: re.Match[str]) -> str:
    name = _NAMES.get(found[1], found[0])
    follows = found.string[found.end() : found.end() + 1]
    return f"{name} " if name[:1] == "\\" and name[-1].isalpha() and follows.isalnum() else name


def _conjunction(found: re.Match[str]) -> str:
    word = found[1].strip(" ,;").lower()
    return " \\or " if word == "or" else " \\and " if word else f"{found[1].strip()} "


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    pieces, at = [], 0
    for start, end, new in sorted(edits):
        if start < at:
            continue
        pieces += [text[at:start], new]
        at = end
    return "".join(pieces) + text[at:]


_ANNOUNCED = re.compile(
    r"^(?:\\text\{\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*:?\s*(?:\}|(?<=[:s])\s+|(?<=:))\s*(?=.)",
    re.IGNORECASE,
)
"""`The answer is` before an answer says nothing; `the answer is not` does."""
_DOMAIN = re.compile(
    r"(?:[,;]|\\text\{[^{}]*\}|\s)*\(?(?<![A-Za-z\\])([a-zA-Z])\s*\\in\s*\\mathbb\{[ZN]\}(?:\^\+|\^\{\+\}|_\+)?\)?\s*$"
)
_QUOTES = re.compile(r'^(?:\*\*(.*)\*\*|`(.*)`|"(.*)")$')


def _trimmed(text: str) -> str:
    """Without Markdown and quotes around, without line ends, stops and commas after it."""
    for _ in range(3):
        before = text
        text = text.strip()
        while text.endswith("\\\\"):
            text = text[:-2].rstrip()
        if found := _QUOTES.match(text):
            text = next(part for part in found.groups() if part is not None)
        if text.endswith((".", ",", ";", ":")) and not text.endswith(("..", "\\,", "\\;", "\\:")):
            text = text[:-1]
        text = _ANNOUNCED.sub("", text)
        if text.startswith("{") and brace_pairs(text).get(0) == len(text) - 1 and "," not in text:
            text = text[1:-1]
        if found := re.fullmatch(r"\\text\{([^{}\\]*)\}", text):
            text = found[1]
        if text == before:
            return text
    return text.strip()
