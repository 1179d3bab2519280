"""Data sources as a family: whoever yields the rows of a data set is chosen by name, built in or from a plugin."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import Registry


class SourceSection(Section):
    """A source of rows. Each kind adds fields of its own."""

    source: str
    """Which source."""


SOURCES: Registry["Source"] = Registry("source")
"""Every data source in use, by the name that its section gives it."""


class Source(ABC):
    """Yields the rows of a data set."""

    Config: ClassVar[type[SourceSection]]

    def __init_subclass__(cls) -> None:
        if "Config" in cls.__dict__:
            SOURCES.add(cls)

    def __init__(self, section: Any) -> None:
        self.section = section

    @abstractmethod
    def rows(self, path: Path) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
        """(number of the row from 1, the row as a JSON text or as a mapping), always in the same order.

        Raises:
            DataError: the data cannot be read at all; a single bad row is yielded as it is and quarantined later.
        """
