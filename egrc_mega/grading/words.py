"""Answers that are no mathematics, or read like words: choices, words, clock times, numbers in a base."""

import re

_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16, "binary": 2, "octal": 8, "decimal": 10, "hex": 16,
}  # fmt: skip
_BASE = re.compile(
    r"(-?)(?:\(([0-9A-Fa-f]+)\)|\\text\{([0-9A-F]+)\}|([0-9][0-9A-Fa-f]*))_(?:\{(?:\\text\{)?\s*(\w+)\s*\}?\}|(\w+)|\\text\{(\w+)\})"
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:\\text\{)?\s*([ap])?\.?\s*(?:m\.?)?\s*\}?", re.IGNORECASE)
_CHOICE = re.compile(r"(?:\\text\{\s*)?\(?\s*([A-Ja-j])\s*(?:\)|\}|[.:](?!\d)|$)\s*\}?[.):]?(.*)", re.DOTALL)
_NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
_NOTHING = {"no solution", "no solutions", "no real solution", "no real solutions", "none", "empty set", "\\emptyset"}
_SHORT_WORDS = {"no", "on", "up", "or", "yes", "odd", "mon", "red", "he", "she", "it"}
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_SAME = {"true": "true", "t": "t", "none": "none", "not possible": "impossible", "n/a": "na"}


def base_numeral(text: str) -> tuple[str, int] | None:
    """The digits and the base of a compact text that is nothing else, `11_2` or `(11)_{two}`; None: it is none."""
    found = _BASE.fullmatch(text)
    if not found:
        return None
    digits = (found[2] or found[3] or found[4]).upper().lstrip("0") or "0"
    name = found[5] or found[6] or found[7]
    base = int(name) if name.isdigit() and len(name) < 4 else _BASES.get(name.lower(), 0)
    is_numeral = 2 <= base <= 36 and all(int(digit, 36) < base for digit in digits)
    return (found[1] + digits, base) if is_numeral else None


def clock_time(text: str) -> tuple[int, int, int, str] | None:
    """Hours, minutes, seconds and `a`, `p` or nothing of a time of day; None: it is none."""
    found = _CLOCK.fullmatch(text.strip())
    if not found or int(found[1]) > 24 or int(found[2]) > 59 or int(found[3] or 0) > 59:
        return None
    return int(found[1]), int(found[2]), int(found[3] or 0), (found[4] or "").lower()


def choice_of(text: str) -> str | None:
    """The letter of an answer to a multiple choice: `B`, `(B)`, `B. 7`, `\\text{(B) } 7`; None: it names none."""
    text = re.sub(r"^(\\text\{\s*)?(?:option|choice|answer)\s+", r"\1", text.strip(), flags=re.IGNORECASE)
    found = _CHOICE.fullmatch(text)
    if not found or (found[1].islower() and found[2].strip()):
        return None
    rest = found[2].strip()
    if re.search(r"(?<![A-Za-z\\])(?:or|and|not|nor)(?![a-z])|\\or|\\and|\([A-J]\)|(?<![A-Za-z\\])[A-J][.)]", rest):
        return None
    is_marked = bool(re.match(r"\s*(?:\\text\{\s*)?(?:\([A-Ja-j]\)|[A-Ja-j]\s*[.):}])", text.strip()))
    return found[1].upper() if not rest or is_marked else None


def words_of(text: str) -> str:
    """The words of a text in lower case, without marks, one space between."""
    text = _TEXT.sub(r" \1 ", text).lower()
    text = re.sub(r"\\(?:and|or)(?![a-z])", lambda found: f" {found[0][1:]} ", text)
    text = " ".join(re.sub(r"[^\w\s\\^+*/=<>-]|_", " ", text).split())
    text = re.sub(r"^(?:the|a|an) ", "", text)
    return _SAME.get(text, text)


def number_word(text: str) -> int | None:
    """The number of `twelve`, up to twenty; None: the text is no such word."""
    return _NUMBERS.get(words_of(text))


def means_nothing(text: str) -> bool:
    """Whether a plain text says that there is no solution, in words or as the empty set."""
    return words_of(text) in _NOTHING


def is_words(text: str) -> bool:
    """Whether a plain text reads as words rather than as mathematics."""
    shown = _TEXT.sub(r" \1 ", text)
    if re.search(r"[\\^_=<>{}+*/|]|\d[A-Za-z]", shown):
        return bool(_TEXT.search(text)) and not re.search(r"\\(?!text)|[\^_=<>+*/|]", shown) and _is_mostly_words(shown)
    words = re.findall(r"[A-Za-z]+", shown)
    if not words:
        return False
    if len(words) == 1 and not re.search(r"\d", shown):
        word = words[0]
        if len(word) < 3:
            return word.lower() in _SHORT_WORDS or (len(word) > 1 and bool(_TEXT.search(text)))
        return word.lower() in _SHORT_WORDS or bool(re.search("[aeiouyAEIOUY]", word))
    return _is_mostly_words(shown)


def _is_mostly_words(text: str) -> bool:
    words = [word for word in re.findall(r"[A-Za-z]+", text) if len(word) > 2 or word.lower() in _SHORT_WORDS]
    return any(re.search("[aeiouyAEIOUY]", word) for word in words)
