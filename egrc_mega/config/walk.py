"""Which sections may stand in a field: for suggestions, for listings, and for building the schema anew."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import OneOf


def sections_in(field: FieldInfo) -> list[type[Section]]:
    """Every section that the field, or an element of it, may be; empty for a plain value."""
    return list(_sections(field.annotation, tuple(field.metadata)))


def _sections(annotation: Any, metadata: tuple[Any, ...]) -> Iterator[type[Section]]:
    if get_origin(annotation) is Annotated:
        annotation, *own = get_args(annotation)
        metadata = (*metadata, *own)
    families = [mark.registry for mark in metadata if isinstance(mark, OneOf)]
    if families:
        for family in families:
            yield from (member.Config for member in family.members.values())
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _sections(argument, ())


def tag_of(field: FieldInfo) -> str | None:
    """The name of the field that tells the members of a family apart; None where no family may stand."""
    marks = [*field.metadata]
    for argument in get_args(field.annotation):
        marks += get_args(argument)[1:] if get_origin(argument) is Annotated else []
    return next((mark.registry.kind for mark in marks if isinstance(mark, OneOf)), None)


def rebuild(section: type[Section]) -> None:
    """Build a section's schema anew, those of the sections in it first: the families have other members now."""
    for field in section.model_fields.values():
        for inner in sections_in(field):
            rebuild(inner)
    section.model_rebuild(force=True)
