"""Writes docs/configuration_reference.md from the schema: `python -m egrc_mega.config.reference FILE`."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egrc_mega.config.config import FAMILIES, Config
from egrc_mega.config.fields import REQUIRED, FieldFacts, fields_of, first_line, flat
from egrc_mega.config.messages import messages_of_fields, messages_of_method
from egrc_mega.sections.registry import Registry
from egrc_mega.sections.stage import StageSection
from egrc_mega.sections.study import StudySection

HEAD = """# Configuration reference

Every field of every section: type and bounds, default, meaning, and the messages with which a value is refused (`…`
stands for what was found). The page is written by
`python -m egrc_mega.config.reference docs/configuration_reference.md` from the schema; `egrc config explain` shows the
same texts on the terminal. How files are composed, what a resume may change and what alarms are:
[configuration.md](configuration.md).

```bash
egrc config explain rollout.gpus                    # one field
egrc config explain stages.compress                 # the fields of a section, or of a method
egrc config show -c configs/quickstart.yaml         # every value of a configuration, and where it comes from
egrc config schema                                  # JSON Schema, for editors that complete and check YAML
```

A key that is not listed here is refused with the nearest one that is. "None" in a meaning is YAML's `null`."""

NOT_WRITTEN_OUT = ("stages",)
"""Sections of a configuration that have a chapter of their own."""


def page() -> str:
    """The whole page. It holds the plugins of the configuration that was loaded last, and none in a new process."""
    told = messages_of_fields(set(dotted_names()))
    lines = [HEAD, "", "## At the top", "", *_table(top_level(), "")]
    lines += _said(told, [field.name for field in top_level()])
    for field in fields_of(Config):
        if field.sections and field.name not in NOT_WRITTEN_OUT:
            lines += _chapter(field, told)
    lines += _stages(told)
    for family in FAMILIES:
        lines += _family(family)
    lines += ["", "## A study", "", "The file of `egrc study` ([studies.md](studies.md)).", ""]
    lines += _table(flat(StudySection), "")
    return "\n".join(lines) + "\n"


def top_level() -> list[FieldFacts]:
    """Fields of a configuration that are no sections."""
    return [field for field in fields_of(Config) if not field.sections or field.name in NOT_WRITTEN_OUT]


def dotted_names() -> Iterator[str]:
    """Every field's name as messages have it; those of a stage without `stages.LABEL.`."""
    yield from (field.name for field in fields_of(Config))
    for field in fields_of(Config):
        if field.sections and field.name not in NOT_WRITTEN_OUT:
            yield from (f"{field.name}.{inner.name}" for inner in flat(field.sections[0]))
    yield from (field.name for field in flat(StageSection))


def _chapter(field: FieldFacts, told: Any) -> Iterator[str]:
    section = field.sections[0]
    inner = list(flat(section))
    yield from ("", f"## {field.name}", "", first_line(section), "", *_table(inner, f"{field.name}."))
    yield from _said(told, [field.name, *(f"{field.name}.{each.name}" for each in inner)])


def _stages(told: Any) -> Iterator[str]:
    inner = list(flat(StageSection))
    yield from ("", "## stages", "", "Fields of a stage of any method. `--set` names one by the stage's label or its")
    yield from ("method: `--set stages.compress.rollout.n=16`.", "", *_table(inner, ""))
    yield from _said(told, [each.name for each in inner])


def _family(family: Registry[Any]) -> Iterator[str]:
    yield from ("", f"## {family.kind.capitalize()}s")
    common = {field.name: field.default for field in flat(StageSection)}
    for name, member in sorted(family.members.items()):
        found = list(flat(member.Config))
        own = [field for field in found if field.name not in common and field.name != family.kind]
        yield from ("", f"### {name}", "", first_line(member.Config))
        if getattr(member, "source", ""):
            yield f"Source: {member.source}."
        if family.kind == "method":
            yield from _other_defaults(found, common)
        if own:
            yield from ("", *_table(own, ""))
        yield from _bullets(messages_of_method(Path(inspect.getfile(member)), {field.name for field in found}))


def _other_defaults(fields: list[FieldFacts], common: dict[str, str]) -> Iterator[str]:
    """Where a method's default is not that of every stage."""
    others = [
        f"`{field.name}: {field.default}`"
        for field in fields
        if field.name != "method" and not field.sections and common.get(field.name, field.default) != field.default
    ]
    if others:
        yield f"Its own defaults: {', '.join(others)}."


def _table(fields: list[FieldFacts] | Iterator[FieldFacts], prefix: str) -> Iterator[str]:
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    for field in fields:
        cells = (f"`{prefix}{field.name}`", field.kind, _code(field.shown), field.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(default: str) -> str:
    return default if default in ("", REQUIRED) else f"`{default}`"


def _said(told: Any, names: list[str]) -> Iterator[str]:
    found = [message for name in names for message in told.get(name, [])]
    yield from _bullets(list(dict.fromkeys(found)))


def _bullets(messages: list[str]) -> Iterator[str]:
    if messages:
        yield from ("", "Refused:", "")
        yield from (f"- `{message.replace('`', chr(39))}`" for message in messages)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
