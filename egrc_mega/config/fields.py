"""What the schema says of each field: name, type with bounds, default, meaning. For the reference and `explain`."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from egrc_mega.config.walk import sections_in, tag_of
from egrc_mega.sections.base import Section

REQUIRED = "(required)"
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """One field of a section, in words."""

    name: str
    kind: str
    """Its type, and the values it may have."""
    default: str
    """As YAML has it, or `(required)`."""
    meaning: str
    """The field's docstring, on one line."""
    sections: tuple[type[Section], ...]
    """What may stand there, where the field holds sections; empty for a plain value."""
    value: Any
    """The default itself."""

    @property
    def shown(self) -> str:
        """The default where it is short: that of a section stands with its fields."""
        return "" if isinstance(self.value, Section) and self.kind == "section" else self.default


def fields_of(section: type[Section] | Section) -> Iterator[FieldFacts]:
    """The fields of a section in their order; of an instance, its values are the defaults."""
    if isinstance(section, type):
        yield from _fields_of_class(section)
        return
    for facts in _fields_of_class(type(section)):
        value = getattr(section, facts.name)
        yield facts if value == facts.value else replace(facts, value=value, default=_as_yaml(value))


@lru_cache(maxsize=256)
def _fields_of_class(model: type[Section]) -> tuple[FieldFacts, ...]:
    schema = model.model_json_schema()
    own = schema if "properties" in schema else schema["$defs"][schema["$ref"].rpartition("/")[2]]
    defs = schema.get("$defs", {})
    return tuple(_facts(name, field, own["properties"][name], defs) for name, field in model.model_fields.items())


def _facts(name: str, field: FieldInfo, schema: Schema, defs: Mapping[str, Schema]) -> FieldFacts:
    value = field.get_default(call_default_factory=True)
    return FieldFacts(
        name=name,
        kind=_kind_of(field, schema, defs),
        default=REQUIRED if field.is_required() else _as_yaml(value),
        meaning=" ".join((field.description or "").split()),
        sections=tuple(sections_in(field)),
        value=value,
    )


def flat(section: type[Section] | Section) -> Iterator[FieldFacts]:
    """The fields of a section, and after each one that holds one section only the fields of that, by dotted names."""
    for field in fields_of(section):
        yield field
        if len(field.sections) != 1 or field.kind.startswith(("a ", "list of methods")):
            continue
        inner = field.value if isinstance(field.value, Section) else field.sections[0]
        prefix = f"{field.name}." + "NAME." * field.kind.count("mapping of names")
        yield from (replace(below, name=prefix + below.name) for below in flat(inner))


def first_line(section: type[Section]) -> str:
    """The first paragraph of a section's docstring, on one line."""
    return " ".join(inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0].split())


def _as_yaml(value: Any) -> str:
    plain = TypeAdapter(Any).dump_python(value, mode="json")  # also of sections in a list
    return str(yaml.safe_dump(plain, default_flow_style=True, width=10**6)).removesuffix("\n...\n").strip()


def _kind_of(field: FieldInfo, schema: Schema, defs: Mapping[str, Schema]) -> str:
    tag = tag_of(field)
    if tag is not None:
        return f"list of {tag}s" if "items" in schema else f"a {tag}"
    return kind(schema, defs)


def kind(schema: Schema, defs: Mapping[str, Schema]) -> str:
    """A JSON schema in words, e.g. `integer, at least 1, or null`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "section" if "properties" in defs[name] else kind(defs[name], defs)
    if "anyOf" in schema:
        parts = [kind(part, defs) for part in schema["anyOf"]]
        joint = ", or " if any(", " in part for part in parts) else " or "
        return joint.join(parts)
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    return _plain_kind(schema, defs)


def _plain_kind(schema: Schema, defs: Mapping[str, Schema]) -> str:
    name = schema.get("type", "anything")
    if name == "array" and "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: " + "; ".join(kind(part, defs) for part in schema["prefixItems"])
    if name == "array":
        least = f"at least {schema['minItems']} " if "minItems" in schema else ""
        return f"list of {least}{kind(schema['items'], defs)}"
    if name == "object":
        patterns = list(schema.get("patternProperties", {}).values())
        inner = patterns[0] if patterns else schema.get("additionalProperties")
        return f"mapping of names to {kind(inner, defs)}" if isinstance(inner, dict) else "mapping of names"
    if name in ("integer", "number"):
        return ", ".join([name, *_bounds(schema)])
    if name == "string":
        text = {"path": "path", "date": "date"}.get(schema.get("format", ""), "text")
        return f"{text} that matches `{schema['pattern']}`" if "pattern" in schema else text
    return "`true` or `false`" if name == "boolean" else str(name)


def _bounds(schema: Schema) -> Iterator[str]:
    if "minimum" in schema:
        yield f"at least {schema['minimum']:g}"
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"]
        yield f"at least {low + 1:g}" if schema["type"] == "integer" else f"above {low:g}"
    if "maximum" in schema:
        yield f"at most {schema['maximum']:g}"
    if "exclusiveMaximum" in schema:
        yield f"below {schema['exclusiveMaximum']:g}"
