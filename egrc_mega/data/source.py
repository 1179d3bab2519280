"""Data sources as a family: whoever yields the rows of a data set is chosen by name, built in or from a plugin."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import Registry


class SourceSection(Section):
    """A source of rows. Each kind adds fields of its own."""

    source: str
    """Which source."""


SOURCES: Registry["Source"] = Registry("source")
"""Every data source in use, by the name that its section gives it."""


class Row(NamedTuple):
    """One row as a source yields it; a plain pair of number and content will do."""

    number: int
    """From 1."""
    content: bytes | dict[str, Any]
    """A JSON text, or the mapping itself."""
    line: int | None = None
    """Where the row begins in its file; None: at the line of its number, or nobody knows."""


class Source(ABC):
    """Yields the rows of a data set."""

    Config: ClassVar[type[SourceSection]]

    def __init_subclass__(cls) -> None:
        if "Config" in cls.__dict__:
            SOURCES.add(cls)

    def __init__(self, section: Any) -> None:
        self.section = section

    @abstractmethod
    def rows(self, path: Path) -> Iterator[Row | tuple[int, bytes | dict[str, Any]]]:
        """The rows, always in the same order.

        Raises:
            DataError: the data cannot be read at all; a single bad row is yielded as it is and quarantined later.
        """
