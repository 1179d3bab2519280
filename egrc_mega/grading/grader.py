"""Graders as a family: whoever judges answers is chosen by name, built in or from a plugin.

A grader runs in child processes that may be killed. What it needs is rebuilt there from its section and from the names
of the plugins, so nothing of it is pickled.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from egrc_mega.grading.extract import conclusion, extract_answer
from egrc_mega.grading.verdicts import Reason
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import Registry
from egrc_mega.types import Grade, Hints, Verdict


class GraderSection(Section):
    """A grader. Each kind adds fields of its own."""

    grader: str
    """Which grader."""


GRADERS: Registry["Grader"] = Registry("grader")
"""Every grader in use, by the name that its section gives it."""


class Grader(ABC):
    """Judges an answer against the gold, of which the data set may have said more (`Hints`)."""

    Config: ClassVar[type[GraderSection]]
    judges_mathematics: ClassVar[bool] = False
    """Golds are mathematics: readers understand them by their profile (`grading.gold`) and set aside what they cannot.
    Otherwise they are texts, of which only the grader knows what they mean."""

    def __init_subclass__(cls) -> None:
        if "Config" in cls.__dict__:
            GRADERS.add(cls)

    def __init__(self, section: Any) -> None:
        self.section = section

    def extract(self, text: str, prompt_thinks: bool = True) -> str | None:
        """The answer in a response; None when there is none, which is wrong. Called in the trainer: be quick.

        Args:
            prompt_thinks: the rendered prompt ends within an open `<think>`, so the response must end the thinking.
        """
        return extract_answer(text, prompt_thinks)

    def without_answer(self, text: str, prompt_thinks: bool = True) -> Verdict:
        """The verdict on a response in which `extract` found nothing."""
        ended = conclusion(text, prompt_thinks) is not None
        return Verdict(grade=Grade.WRONG, reason=Reason.NO_BOX if ended else Reason.OPEN_THINKING)

    def judge_at_sight(self, answer: str, gold: str, hints: Hints) -> Verdict | None:
        """A verdict that is safe and quick enough for the trainer's own process; None: ask `judge`."""
        return None

    @abstractmethod
    def judge(self, answer: str, gold: str, hints: Hints) -> Verdict:
        """The verdict, in a child process that is killed when it spends its CPU time."""
