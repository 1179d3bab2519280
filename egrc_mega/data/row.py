"""One row: from a JSON text to the problem's text, the answer's text and the facts, or the reason why not."""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

MAX_EXPONENT = 308
"""A number of a data file stays below 10^308 and above 10^-308: text has no such bound."""
MAX_CHARACTERS = 2**20
"""Of a problem, or of an answer; a context of 131,072 tokens holds about half of it."""
EATEN = {"\b": "b", "\t": "t", "\n": "n", "\f": "f", "\r": "r"}
"""What JSON makes of the begin of a LaTeX command after a single backslash."""
TORN_BY_TAB = re.compile(r"\t(?:imes|ext|extbf|heta|frac|an|au|anh|riangle|ilde|o)(?![a-z])")
"""A tab where `\\times` or `\\text` was meant."""
TORN_BY_LINE = re.compile(r"\n(?:eq|e|eg|u|abla|otin|ot|i|mid|leq|geq|cong|parallel)(?![a-z])")
"""A new line where `\\neq` or `\\nu` was meant; in a problem, unlike an answer, lines may begin so."""


class RowError(ValueError):
    """Why one row cannot be used."""


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number, with the digits that the file has."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def plain(self, key: str) -> str:
        """Without exponent, and as an integer where it is one: 142.0 is "142", 1e-07 is "0.0000001".

        Raises:
            RowError: no finite number, or one that no machine number can hold.
        """
        try:
            value = Decimal(self.text)
        except InvalidOperation:
            value = Decimal("nan")
        if not value.is_finite():
            raise RowError(f"{key!r} must be a finite number, found {self.text:.40}")
        if value and abs(value.adjusted()) >= MAX_EXPONENT:
            raise RowError(
                f"{key!r} must be a finite number below 1e{MAX_EXPONENT}, found {self.text:.40} with "
                f"{value.adjusted() + 1} digits; give it as text if it is meant"
            )
        text = f"{value:f}"
        return text.partition(".")[0] if value == value.to_integral_value() else text


def parsed(raw: bytes) -> Any:
    """A row's JSON text as plain values; numbers keep their digits.

    Raises:
        RowError: not UTF-8, not JSON, or a key that stands twice in an object.
    """
    try:
        return DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1}") from error
    except RowError:
        raise
    except (ValueError, RecursionError) as error:
        raise RowError(f"not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _value in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError(f"key {twice!r} stands twice; which value is meant?")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=Numeral, parse_float=Numeral, parse_constant=_refuse_constant
)


def value_of(row: Mapping[str, Any], key: str) -> Any:
    """What stands under a key; a dot in the key goes into a nested object where no key has that very name.

    Raises:
        RowError: nothing does.
    """
    inner: Any = row
    if key in row:
        return row[key]
    for part in key.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            raise RowError(f"key {key!r} is missing; the row has {sorted(map(str, row))!r:.200}")
        inner = inner[part]
    return inner


def number(row: Mapping[str, Any], key: str) -> float:
    """A fact of a row.

    Raises:
        RowError: it is missing or no finite number.
    """
    value = as_numeral(value_of(row, key))
    found = float(value.text) if isinstance(value, Numeral) else math.nan
    if not math.isfinite(found):
        raise RowError(f"{key!r} must be a finite number, found {value!r:.80}")
    return found


def as_numeral(value: Any) -> Any:
    """Numbers of a parquet file or of a plugin's source, like those of a JSON text; anything else as it is."""
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return Numeral(str(value)) if is_number else value


def text(value: Any, key: str) -> str:
    """A non-empty text without what no text holds, the spaces around it left out.

    Raises:
        RowError: it is no such text, or too long.
    """
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{key!r} must be a non-empty string, found {value!r:.80}")
    _refuse_length(value, key)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(f"{key!r} holds half a character (a lone surrogate): {value!r:.80}")
    _refuse_control_characters(value, key, allowed="\t\n\r", torn=TORN_BY_TAB)
    return value.strip()


def plain_text(value: Any, key: str) -> str:
    """A gold that is no mathematics: any text but an empty one, or a number as its text.

    Raises:
        RowError: it is neither.
    """
    value = as_numeral(value)
    found = value.plain(key) if isinstance(value, Numeral) else value
    _refuse_length(found, key)
    if (
        not isinstance(found, str)
        or not found.strip()
        or "\0" in found
        or any("\ud800" <= c <= "\udfff" for c in found)
    ):
        raise RowError(f"{key!r} must be a non-empty string or a number, found {value!r:.80}")
    return found.strip()


def answer_text(value: str, key: str) -> str:
    """The same for an answer, where a tab or a carriage return is no space but what is left of a LaTeX command."""
    text(value, key)
    found = value.lstrip(" ").rstrip().replace("\r\n", "\n")
    _refuse_control_characters(found, key, allowed="\n", torn=TORN_BY_LINE)
    return found.strip()


def _refuse_length(value: Any, key: str) -> None:
    """No text that is read has so many characters; looking at each of them would take minutes."""
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        raise RowError(f"{key!r} has {len(value)} characters, more than the {MAX_CHARACTERS} that are read")


def _refuse_control_characters(value: str, key: str, allowed: str, torn: re.Pattern[str]) -> None:
    if value.isprintable():
        return
    places = [i for i, c in enumerate(value) if c not in allowed and unicodedata.category(c) == "Cc"]
    places += [found.start() for found in torn.finditer(value)]
    if not places:
        return
    at = min(places)
    bad = value[at]
    guess = f", left of a backslash before {EATEN[bad]}? In JSON a backslash is written twice" if bad in EATEN else ""
    raise RowError(f"{key!r} holds the control character U+{ord(bad):04X}{guess}: {value[at : at + 40]!r}")


def messages_text(value: list[Any], key: str) -> tuple[str, str | None]:
    """The user's text and the system's of a chat with one question, as verl and slime store prompts.

    Raises:
        RowError: another chat than that.
    """
    roles = [message.get("role") if isinstance(message, Mapping) else None for message in value]
    if roles not in (["user"], ["system", "user"]):
        raise RowError(f"{key!r} must be a text, or the messages of one user, found the roles {roles!r:.80}")
    contents = [_content(message.get("content"), key) for message in value]
    return contents[-1], contents[0] if len(contents) > 1 else None


def _content(value: Any, key: str) -> str:
    """A message's content: a text, or parts that are all text."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    return text(value, f"{key} content")
