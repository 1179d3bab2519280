"""Takes a unit off an answer and gives it one name, so that units can be equal, absent, or wrong."""

import re

_NAMES = {
    "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres", "km": "km kilometer kilometers kilometre kilometres",
    "nm": "nm nanometer nanometers", "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards",
    "mi": "mi mile miles", "g": "g gram grams", "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds", "oz": "oz ounce ounces", "t": "ton tons tonne tonnes",
    "s": "s sec secs second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours",
    "day": "day days", "week": "week weeks", "month": "month months", "yr": "yr year years",
    "L": "L l liter liters litre litres", "mL": "mL ml milliliter milliliters", "gal": "gallon gallons gal",
    "N": "N newton newtons", "J": "J joule joules", "kJ": "kJ kilojoule kilojoules", "W": "W watt watts",
    "kW": "kW kilowatt kilowatts", "V": "V volt volts", "A": "A amp amps ampere amperes", "K": "K kelvin kelvins",
    "Hz": "Hz hertz", "Pa": "Pa pascal pascals", "mol": "mol moles mole", "eV": "eV", "C": "coulomb coulombs",
    "dollar": "dollar dollars usd bucks", "cent": "cent cents", "euro": "euro euros", "rad": "rad radian radians",
    "degree": r"degree degrees deg \degree", "%": "% percent percents percentage pct", "unit": "unit units",
    "mph": "mph",
    "kcal": "kcal", "cal": "cal calorie calories", "erg": "erg ergs", "T": "tesla teslas", "F": "fahrenheit",
    "celsius": "celsius", "ohm": "ohm ohms", "person": "person persons people", "arcsec": "'' arcsec arcseconds",
    "angstrom": "angstrom angstroms", "pc": "pc parsec parsecs", "dyn": "dyn dyne dynes", "kmh": "kmh kph",
}  # fmt: skip
_CANONICAL = {spelling: name for name, spellings in _NAMES.items() for spelling in spellings.split()}
_STOP_WORDS = frozenset({
    "or", "and", "not", "no", "maybe", "if", "to", "between", "but", "is", "are", "was", "the", "answer", "than",
    "less", "greater", "more", "about", "approximately", "mod", "else", "either", "neither", "nor", "possibly",
    "probably", "i", "think", "know", "don", "t", "do", "unless", "except", "from", "through", "until", "ne",
    "undefined", "infinity", "false", "true", "yes", "none", "wrong", "right", "guess", "perhaps", "plus", "minus",
    "times", "over", "without", "with", "where", "for", "any", "all", "when", "there", "exist", "exists", "does",
    "why", "how", "hundred", "thousand", "million", "billion", "trillion", "dozen",
})  # fmt: skip
_MATHEMATICAL = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "pi", "sqrt", "arcsin", "arccos", "arctan", "lim",
    "max", "min", "gcd", "lcm", "mod",
})  # fmt: skip
_ANGLE = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)[^()]*$")
"""A trigonometric function without brackets: a degree sign after it belongs to its angle."""
_SQUARES = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}
_PIECE = re.compile(
    r"\\text\{([^{}]*)\}|(\\degree)|([A-Za-z]+)|\^\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d))|(\*|/|\\,|\s+|'')|(%)|(.)",
    re.DOTALL,
)
_WORDS = re.compile(r"[A-Za-z.'µ/*^\d{}() -]*")
HEDGE = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(sorted(_STOP_WORDS))})(?![A-Za-z])", re.IGNORECASE)


def split_unit(text: str) -> tuple[str, str | None]:
    """A plain text without the unit at its end, and the unit's canonical name; None: it has none.

    Words in `\\text` count as a unit, unless they hedge ("or", "not"); bare letters only where they are a known unit of
    more than one letter or a word of three. Linear in the text.
    """
    pieces = list(_PIECE.finditer(text))
    begin = len(pieces)
    for i in range(len(pieces) - 1, -1, -1):
        if not _may_belong(pieces[i], text):
            break
        begin = i
    while begin < len(pieces) and not _may_begin(pieces[begin]):
        begin += 1
    if begin == len(pieces):
        return text, None
    at = pieces[begin].start()
    if not text[:at].strip():
        return text, None
    if _has_lone_letter(pieces[begin:]) or (pieces[begin][2] and _ANGLE.search(text[:at])):
        return text, None
    unit = _canonical(text[at:])
    return (text[:at].rstrip(" *\\,"), unit) if unit else (text, None)


def _may_belong(piece: re.Match[str], text: str) -> bool:
    words, degree, letters, braced, digit, separator, percent, _other = piece.groups()
    if words is not None:
        return (
            bool(_WORDS.fullmatch(words))
            and not HEDGE.search(words)
            and bool(re.search(r"[A-Za-z']", words) or not words.strip())
        )
    if letters is not None:
        before = text[piece.start() - 1] if piece.start() else ""
        return before not in ("\\", "_", "^", "{") and _is_bare_unit(letters, before)
    return any(part is not None for part in (degree, braced, digit, separator, percent))


def _may_begin(piece: re.Match[str]) -> bool:
    words, degree, letters, _braced, _digit, separator, percent, _other = piece.groups()
    return any(part is not None for part in (words, degree, letters, percent)) or separator == "''"


def _is_bare_unit(letters: str, before: str) -> bool:
    if letters.lower() in _MATHEMATICAL or letters.lower() in _STOP_WORDS:
        return False
    if letters in _CANONICAL or letters.lower() in _CANONICAL:
        return len(letters) > 1 or (letters in _CANONICAL and before in (" ", "/", "*"))
    return (
        len(letters) >= 4 and before in (" ", "}", "/") and letters.islower() and bool(re.search("[aeiouy]", letters))
    )


def _has_lone_letter(unit: list[re.Match[str]]) -> bool:
    """`5 m` may be a product; `5 m/s` is none."""
    letters = [piece[3] for piece in unit if piece[3]]
    return any(len(each) == 1 for each in letters) and not any(piece[0] == "/" for piece in unit)


def _canonical(text: str) -> str | None:
    """`cm^2` of `\\text{ square centimeters}`; None: there is no name in it."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("\\degree", " degree ").replace("''", " arcsec ")
    text = re.sub(r"\^\s*\{?\s*([-+]?\d+)\s*\}?", r"^\1 ", text)
    powers: dict[str, int] = {}
    sign, next_power, last = 1, 1, ""
    for token in re.findall(r"[A-Za-z%]+\.?|\^[-+]?\d+|/", text):
        word = token.rstrip(".")
        if token == "/" or word == "per":
            sign, last = -1, ""
        elif token[0] == "^" and last:
            powers[last] = (1 if powers[last] > 0 else -1) * int(token[1:])
        elif word in _SQUARES:
            if word in ("squared", "cubed") and last:
                powers[last] *= _SQUARES[word]
            else:
                next_power = _SQUARES[word]
        elif token[0] != "^":
            last = _CANONICAL.get(word) or _CANONICAL.get(word.lower()) or word.lower().removesuffix("s")
            powers[last] = sign * next_power
            next_power = 1
    if "degree" in powers and len(powers) > 1:  # `\degree C`
        powers.pop("degree")
    return " ".join(name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items())) or None


def units_agree(gold: str | None, answer: str | None) -> bool:
    """The same unit, or one that only one side has. A plain "unit" is no unit."""
    vague = ("unit", "unit^2", "unit^3", None)
    return gold in vague or answer in vague or gold == answer
