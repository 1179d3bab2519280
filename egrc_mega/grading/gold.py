"""Understands a gold answer when it is read: its type, its parts and its exact value, or why it cannot be graded."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from egrc_mega.grading.extract import last_box
from egrc_mega.grading.kinds import NUMERIC, AnswerType, Gold, GoldError
from egrc_mega.grading.markup import compact, plain, without_domain
from egrc_mega.grading.profiles import Profile, profile_called
from egrc_mega.grading.recognise import forced, typed
from egrc_mega.grading.units import split_unit
from egrc_mega.types import NO_HINTS, Hints

MAX_CHARACTERS = 1000
"""A longer gold cannot be graded."""


@lru_cache(maxsize=65536)
def understand(text: str, hints: Hints = NO_HINTS) -> Gold:
    """The gold behind a text. A text that is a list of texts (JSON or Python) is taken as the profile says.

    Raises:
        GoldError: it cannot be graded; the message says why.
        ConfigError: there is no such profile.
    """
    profile = profile_called(hints.profile)
    _refuse_characters(text)
    texts = _texts_of(text)
    if len(texts) > 1 and profile.list_is_alternatives:
        first, *others = [_understood(each, hints, profile) for each in dict.fromkeys(texts)]
        return replace(first, text=text, alternatives=(*first.alternatives, *others))
    gold = replace(_understood(", ".join(texts), hints, profile), text=text)
    _refuse_range(gold, profile)
    return gold


def _refuse_characters(text: str) -> None:
    if not text.strip():
        raise GoldError("the answer is empty")
    if len(text) > MAX_CHARACTERS:
        raise GoldError(f"the answer has {len(text)} characters, more than {MAX_CHARACTERS}")
    for character in text.rstrip():
        if (ord(character) < 32 and character not in "\r\n") or ord(character) == 127:
            raise GoldError(
                f"the answer holds a control character (U+{ord(character):04X}): a backslash before a letter was lost"
            )


_QUOTED = re.compile(r"""\[\s*(?:(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*,?\s*)+\]""", re.DOTALL)
_ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)


def _texts_of(text: str) -> list[str]:
    """The texts of a list that was written as a text; otherwise the one text."""
    text = text.strip()
    if not _QUOTED.fullmatch(text):
        return [text]
    try:
        items = json.loads(text)
    except ValueError:
        items = None
    if items is None or any("\f" in item or "\t" in item or "\b" in item for item in items):
        # Python's spelling, or one in which backslashes stand for themselves
        items = [single or double for single, double in _ITEM.findall(text)]
        items = [
            item.replace("\\\\", "\\")
            if "\\\\" in item and not re.search(r"(?<!\\)\\(?!\\)[a-zA-Z]{2}", item)
            else item
            for item in items
        ]
    items = [re.sub(r"(\\n|\s)+$", "", item).strip() for item in items]
    if not any(items):
        raise GoldError("the answer is a list without a text")
    return [item for item in items if item]


def _refuse_range(gold: Gold, profile: Profile) -> None:
    if profile.integer_range is None:
        return
    low, high = profile.integer_range
    if gold.type != AnswerType.INTEGER or gold.value is None or not low <= gold.value <= high:
        raise GoldError(f"the profile {profile.name} wants an integer of {low} to {high}, found {gold.text!r:.80}")


def _understood(text: str, hints: Hints, profile: Profile) -> Gold:
    if "####" in text:
        text = text.rpartition("####")[2]
    if "boxed" in text or "fbox" in text:
        text = last_box(text) or text
    shown = without_domain(plain(text))
    if re.search(r"(?<!\\)\$\s*[A-Za-z]{3,}[^$]*$", text) and len(re.findall(r"(?<!\\)\$", text)) % 2:
        raise GoldError(f"words follow a dollar sign that closes nothing: {text!r:.80}")
    if not compact(shown) or not re.search(r"[0-9A-Za-z]", shown):
        raise GoldError(f"the answer holds no number, letter or word: {text!r:.80}")
    gold = forced(shown, hints.answer_type) if hints.answer_type else typed(shown)
    gold = replace(gold, text=text, whole=shown)
    if hints.unit and gold.unit is None:
        gold = replace(gold, unit=split_unit(f"1 {plain(hints.unit)}")[1])
    if hints.error:
        gold = _with_error(gold, hints.error)
    return gold


def _with_error(gold: Gold, error: str) -> Gold:
    try:
        tolerance = abs(Fraction(error.strip()))
    except (ValueError, ZeroDivisionError):
        tolerance = None
    if tolerance is None:
        raise GoldError(f"its tolerance {error!r:.80} is no number")
    return replace(gold, error=tolerance, parts=tuple(replace(part, error=tolerance) for part in gold.parts))


__all__ = ["NUMERIC", "AnswerType", "Gold", "GoldError", "understand"]
