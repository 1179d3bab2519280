"""Graders as a family: whoever judges answers is chosen by name, built in or from a plugin.

A grader runs in child processes that may be killed. What it needs is rebuilt there from its section and from the names
of the plugins, so nothing of it is pickled.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from egrc_mega.grading.extract import extract_answer
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import Registry
from egrc_mega.types import Grade


class GraderSection(Section):
    """A grader. Each kind adds fields of its own."""

    grader: str
    """Which grader."""


GRADERS: Registry["Grader"] = Registry("grader")
"""Every grader in use, by the name that its section gives it."""


class Grader(ABC):
    """Judges an answer against the gold."""

    Config: ClassVar[type[GraderSection]]

    def __init_subclass__(cls) -> None:
        if "Config" in cls.__dict__:
            GRADERS.add(cls)

    def __init__(self, section: Any) -> None:
        self.section = section

    def extract(self, text: str) -> str | None:
        """The answer in a response; None when there is none, which is wrong. Called in the trainer: be quick."""
        return extract_answer(text)

    def judge_at_sight(self, answer: str, gold: str) -> Grade | None:
        """A verdict that is safe and quick enough for the trainer's own process; None: ask `judge`."""
        return None

    @abstractmethod
    def judge(self, answer: str, gold: str) -> Grade:
        """The verdict, in a child process that is killed when it misses its deadline."""
