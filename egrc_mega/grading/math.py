"""The built-in grader: mathematical answers, by the ladder."""

from typing import Literal

from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.grading.ladder import judge, judge_at_sight
from egrc_mega.types import Hints, Verdict


class MathGraderSection(GraderSection):
    """Mathematical answers in a box, by the ladder (docs/grading.md)."""

    grader: Literal["math"] = "math"
    """Which grader."""


class MathGrader(Grader):
    """Mathematical answers: see `grading.ladder`."""

    Config = MathGraderSection
    judges_mathematics = True

    def judge_at_sight(self, answer: str, gold: str, hints: Hints) -> Verdict | None:
        """All that needs no evaluation."""
        return judge_at_sight(answer, gold, hints)

    def judge(self, answer: str, gold: str, hints: Hints) -> Verdict:
        """The verdict of the whole ladder."""
        return judge(answer, gold, hints)
