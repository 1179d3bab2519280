"""Families of named classes (methods, rewards, graders, data sources), each class with its own section of a config.

A class joins its family by being defined; where a field of a section is marked with `OneOf(family)`, the section of any
member may stand there, told by its tag. Members from outside the package join when a configuration names their module
under `plugins`, and leave with it.
"""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from egrc_mega.errors import ConfigError
from egrc_mega.sections.base import Section

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of a family by name. `kind` says what they are, and is the field that tells their sections apart."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[tuple[str, str], type[T]] = {}
        self._plugins: tuple[str, ...] = ()

    def add(self, member: type[T]) -> None:
        """Take in a class that has a section; called when it is defined.

        Raises:
            ConfigError: the section does not name its member by a `Literal` of one value.
        """
        self._known[member.__module__, name_of(member, self.kind)] = member

    def has_members_of(self, module: str) -> bool:
        """Whether a class of this module has joined."""
        return any(of == module for of, _name in self._known)

    def use_plugins(self, modules: Iterable[str]) -> bool:
        """From now on the members are those of the package and of these modules, which win where names are equal.

        Returns:
            Whether that changes anything.
        """
        before, self._plugins = self._plugins, tuple(modules)
        return before != self._plugins

    @property
    def members(self) -> dict[str, type[T]]:
        """Every member in use, by name.

        Raises:
            ConfigError: two plugins define a member of one name.
        """
        found = {name: cls for (module, name), cls in self._known.items() if module.startswith("egrc_mega.")}
        origins: dict[str, str] = {}
        for (module, name), cls in self._known.items():
            if module not in self._plugins:
                continue
            if name in origins:
                raise ConfigError(
                    f"plugins: {origins[name]} and {module} both define the {self.kind} {name}; rename one"
                )
            origins[name], found[name] = module, cls
        return found

    def __getitem__(self, name: str) -> type[T]:
        return self.members[name]


def name_of(member: Any, kind: str) -> str:
    """The name that a class's section gives it.

    Raises:
        ConfigError: it gives none.
    """
    field = member.Config.model_fields.get(kind)
    names = get_args(field.annotation) if field else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise ConfigError(
            f'{member.__module__}.{member.__qualname__}: its section must say {kind}: Literal["a_name"] = "a_name"'
        )
    return str(names[0])


class OneOf:
    """Marks a field that holds the section of any member of a family: `Annotated[Section, OneOf(METHODS)]`."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: type[Section], handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(cls.Config) for name, cls in self.registry.members.items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.registry.kind)
