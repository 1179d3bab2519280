"""`egrc config show --methods`: every method, reward, grader and data source in use, with fields and defaults."""

import inspect
from collections.abc import Iterator
from typing import Any

from egrc_mega.config.config import FAMILIES
from egrc_mega.config.fields import first_line, flat

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
    yield f"{kind} {name}: {first_line(member.Config)}"
    if getattr(member, "source", ""):
        yield f"  source: {member.source}"
    yield f"  defined in: {inspect.getsourcefile(member)}"
    for field in flat(member.Config):
        if field.shown:
            yield f"  {f'{field.name}: {field.shown}':<{WIDTH}}  {field.meaning}"
    yield ""
