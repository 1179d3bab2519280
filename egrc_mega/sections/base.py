"""The base of every section of a configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A frozen group of fields that refuses unknown keys.

    A section that is given in part keeps, for the rest, what the field that holds it has as its default: a method whose
    section says `rollout: SamplingSection = SamplingSection(n=16)` has groups of 16 also where a file sets another
    field of `rollout`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        partial = {
            name: _merged(default.model_dump(exclude_unset=True), given[name])
            for name, default in defaults.items()
            if isinstance(default, Section) and isinstance(given.get(name), dict)
        }
        return given | partial


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` wins, section by section."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both
