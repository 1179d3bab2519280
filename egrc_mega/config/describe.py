"""`egrc config explain NAME`: what one field is, or what fields a section has."""

import difflib
from collections.abc import Iterator

from egrc_mega.config.config import Config
from egrc_mega.config.fields import FieldFacts, first_line, flat
from egrc_mega.config.messages import messages_of_fields
from egrc_mega.errors import ConfigError
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection

WIDTH = 44
STAGES = "stages."


def describe(name: str) -> str:
    """A field with type, default, meaning and what is refused; of a section, a line for each field.

    Args:
        name: dotted, e.g. rollout.gpus; of a stage stages.METHOD.FIELD, or stages.FIELD for what all methods have.

    Raises:
        ConfigError: there is no such field; with the nearest that there is.
    """
    section, prefix = _root(name)
    found = {prefix + field.name: field for field in flat(section)}
    within = {own: field for own, field in found.items() if own.startswith(f"{name}.")}
    if name == prefix.removesuffix(".") or (name in found and within):
        head = found[name].meaning if name in found else first_line(section)
        return "\n".join([f"{name}: {head}", *(_line(own, field) for own, field in within.items())])
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {close[0]}?" if close else "egrc config explain run lists a section"
        raise ConfigError(f"{name}: there is no such field; {hint}")
    return "\n".join(_whole(name, name.removeprefix(prefix) if prefix else name, found[name]))


def _root(name: str) -> tuple[type[Section], str]:
    """The section below which the name is looked for, and the start of the name that stands for it."""
    if not name.startswith(STAGES):
        return Config, ""
    method = name.removeprefix(STAGES).partition(".")[0]
    if method in METHODS.members:
        return METHODS[method].Config, f"{STAGES}{method}."
    return StageSection, STAGES


def _line(name: str, field: FieldFacts) -> str:
    return f"  {f'{name}: {field.shown}':<{WIDTH}}  {field.meaning}"


def _whole(name: str, own: str, field: FieldFacts) -> Iterator[str]:
    yield name
    yield f"  type     {field.kind.replace('`', '')}"
    yield f"  default  {field.default}"
    yield f"  {field.meaning}"
    for message in messages_of_fields({own}).get(own, []):
        yield f"  refused  {message}"
