"""Turns pydantic's problems into lines that name the field, the value and the remedy."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_origin

from pydantic import ValidationError

from egrc_mega.config.config import Config
from egrc_mega.config.walk import sections_in, tag_of
from egrc_mega.sections.base import Section

Place = Sequence[str | int]

RENAMED = {
    "rollout.one_step_ahead": "rollout.mode: ahead",
    "rollout.max_version_lag": "rollout.max_staleness",
}
"""Fields of earlier versions, and what has taken their place."""


def explain(error: ValidationError, root: type[Section] = Config) -> Iterator[str]:
    """One line for each problem of a `root`; a problem that only follows from others is left out."""
    items = error.errors()
    places = [item["loc"] for item in items]
    for item in items:
        is_derived = item["type"] == "too_short" and any(
            len(place) > len(item["loc"]) and place[: len(item["loc"])] == item["loc"] for place in places
        )
        if not is_derived:
            yield _line(item, root)


def _line(item: Any, root: type[Section]) -> str:
    section, name = _named(item["loc"], root)
    if item["type"] == "extra_forbidden" and name in RENAMED:
        return f"{name}: unknown key; it has become {RENAMED[name]}"
    if item["type"] == "extra_forbidden":
        return f"{name}: unknown key; {_hint(str(item['loc'][-1]), list(section.model_fields) if section else [])}"
    if item["type"] == "missing":
        return f"{name}: required, but missing"
    if item["type"] == "union_tag_not_found":
        tag = item["ctx"]["discriminator"].strip("'")
        return f"{name}.{tag}: required, but missing"
    if item["type"] == "union_tag_invalid":
        tag, found = item["ctx"]["discriminator"].strip("'"), item["ctx"]["tag"]
        known = [known.strip("' ") for known in item["ctx"]["expected_tags"].split(",")]
        return f"{name}.{tag}: there is no {tag} {found!r}; {_hint(found, known)} (there are {', '.join(known)})"
    problem = "input should be a list" if item["type"] == "tuple_type" else f"{item['msg'][0].lower()}{item['msg'][1:]}"
    return f"{name}: {item['input']!r:.80} is not usable: {problem}"


def _hint(found: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    return f"did you mean {close[0]}?" if close else "remove it"


def _named(place: Place, root: type[Section]) -> tuple[type[Section] | None, str]:
    """The section that a problem's last part belongs to, and the dotted name without the tags of families."""
    section: type[Section] | None = root
    names: list[str] = []
    choices: list[type[Section]] = []
    tag: str | None = None
    names_follow = False
    for i, part in enumerate(place):
        member = next((c for c in choices if tag and isinstance(part, str) and _tag_value(c, tag) == part), None)
        if member is not None:
            section, choices, tag = member, [], None
            continue
        names.append(str(part))
        if isinstance(part, int) or i == len(place) - 1 or names_follow:
            names_follow = False
            continue
        field = section.model_fields.get(part) if section else None
        # what stands in a mapping has a name that its user has chosen
        names_follow = field is not None and get_origin(field.annotation) is dict
        choices, tag = (sections_in(field), tag_of(field)) if field else ([], None)
        section = choices[0] if tag is None and choices else None
    return section, ".".join(names)


def _tag_value(section: type[Section], tag: str) -> str | None:
    field = section.model_fields.get(tag)
    default: str | None = field.default if field else None
    return default
