"""`egrc config show --methods`: every method, reward, grader and data source in use, with fields and defaults."""

import inspect
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from egrc_mega.config.config import FAMILIES
from egrc_mega.sections.base import Section

WIDTH = 30


def catalogue() -> str:
    """The listing, a paragraph for each member; it holds the plugins of the configuration that was loaded last."""
    return "\n".join(
        line
        for family in FAMILIES
        for name, member in sorted(family.members.items())
        for line in _paragraph(family.kind, name, member)
    )


def _paragraph(kind: str, name: str, member: Any) -> Iterator[str]:
    yield f"{kind} {name}: {_first_line(member.Config)}"
    if getattr(member, "source", ""):
        yield f"  source: {member.source}"
    yield f"  defined in: {inspect.getsourcefile(member)}"
    yield from _fields(member.Config, "")
    yield ""


def _first_line(section: type[Section]) -> str:
    return inspect.cleandoc(section.__doc__ or "").partition("\n")[0]


def _fields(section: type[Section] | Section, prefix: str) -> Iterator[str]:
    """A line for each value: its dotted name, its default, and what it is for."""
    model = section if isinstance(section, type) else type(section)
    for name, field in model.model_fields.items():
        default = field.default if isinstance(section, type) else getattr(section, name)
        if isinstance(default, Section):
            yield from _fields(default, f"{prefix}{name}.")
        else:
            yield f"  {f'{prefix}{name}: {_value(field, default)}':<{WIDTH}}  {_said(field)}"


def _value(field: FieldInfo, default: Any) -> str:
    if field.is_required() and default is field.default:
        return "(required)"
    plain = TypeAdapter(Any).dump_python(default, mode="json")  # also of sections in a list
    return str(yaml.safe_dump(plain, default_flow_style=True, width=10**6)).removesuffix("\n...\n").strip()


def _said(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
