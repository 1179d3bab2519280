"""Every loss that the trainer can ask the kernel for, read from the declarations of the options instead of listed."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from typing import Any, get_args

from egrc_kernels.policy_loss import LossSettings
from pydantic import ValidationError

from egrc_mega.sections.stage import LossSection

DEFAULTS = {field.name: field.default for field in fields(LossSettings)}
NUMBERS = (0.5, 2.0, (0.5, 2.0))
"""Some value of each numeric type that an option may have."""


def all_losses() -> Iterator[LossSettings]:
    """Each word of each option with each term on and off; some of them differ in no kernel.

    Where a term is off, how it would be computed stays as it comes: `kl_kind` without `kl_coef`.
    """
    for values in product(*map(_values, DEFAULTS)):
        settings = LossSettings(**dict(zip(DEFAULTS, values, strict=True)))
        on = terms(settings)
        if all(on[term] for word in _words_changed(settings) for term in on if _says_how(word, term)):
            yield settings


def terms(settings: LossSettings) -> dict[str, bool]:
    """Options that are a number or nothing, and whether they are on."""
    return {name: bool(getattr(settings, name)) for name, default in DEFAULTS.items() if not default}


def described(settings: LossSettings) -> str:
    """What differs from the defaults: words in full, terms by their names."""
    words = [f"{name} {getattr(settings, name)}" for name in _words_changed(settings)]
    return ", ".join([*words, *(name for name, on in terms(settings).items() if on)]) or "as it comes"


def _words_changed(settings: LossSettings) -> list[str]:
    return [name for name, default in DEFAULTS.items() if default and getattr(settings, name) != default]


def _says_how(word: str, term: str) -> bool:
    """Whether an option is about a term: the names of both begin alike."""
    return word.split("_")[0] == term.split("_")[0]


def _values(name: str) -> list[Any]:
    """What an option may be as far as kernels can differ by it: each word; on and off; of other numbers the default."""
    default, field = DEFAULTS[name], LossSection.model_fields.get(name)
    if field is None:
        return [default]  # no configuration can ask for another
    if default:
        return list(dict.fromkeys([default, *_words(field.annotation)]))
    return [default, True if isinstance(default, bool) else next(x for x in NUMBERS if _is_allowed(name, x))]


def _words(annotation: Any) -> Iterator[str]:
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _words(part)


def _is_allowed(name: str, value: Any) -> bool:
    try:
        LossSection(**{name: value})
    except ValidationError:
        return False
    return True
