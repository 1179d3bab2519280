"""The built-in grader: mathematical answers, compared at sight or by math-verify."""

from typing import Literal

from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.grading.verify import judge, judge_at_sight
from egrc_mega.types import Grade


class MathGraderSection(GraderSection):
    """Mathematical answers in a box (math-verify)."""

    grader: Literal["math"] = "math"
    """Which grader."""


class MathGrader(Grader):
    """Mathematical answers: see `grading.verify`."""

    Config = MathGraderSection

    def judge_at_sight(self, answer: str, gold: str) -> Grade | None:
        """Equal texts, integers, empty and endless answers."""
        return judge_at_sight(answer, gold)

    def judge(self, answer: str, gold: str) -> Grade:
        """The verdict of math-verify."""
        return judge(answer, gold)
