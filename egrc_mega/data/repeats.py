"""Problems that come again: good with an answer of the same value, a contradiction with another."""

import re
from collections.abc import Sequence

from egrc_mega.data.row import RowError
from egrc_mega.grading.gold import understand
from egrc_mega.grading.ladder import judge_at_sight
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.worker import Budget
from egrc_mega.types import Grade, Problem, Verdict

LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
"""A space that separates no two words or numbers."""
BUDGET = Budget(cpu_s=0.4, timeout_s=60.0)
"""For the comparison of two golds."""


class Repeats:
    """The problems of a file so far, by their text without the spaces that do not matter."""

    def __init__(self, is_mathematics: bool) -> None:
        self.is_mathematics = is_mathematics
        self._first: dict[str, Problem] = {}
        self._undecided: list[tuple[Problem, Problem]] = []

    def note(self, problem: Problem) -> None:
        """Remember a problem, and compare its answer with that of the same problem before.

        Raises:
            RowError: plainly another answer.
        """
        asked = LOOSE_SPACE.sub("", " ".join(f"{problem.system or ''} {problem.text}".split()))
        first = self._first.setdefault(asked, problem)
        if first is problem or first.answer == problem.answer:
            return
        is_same = self._is_same(problem, first)
        if is_same is None:
            self._undecided.append((problem, first))
        elif not is_same:
            raise RowError(_contradiction(problem, first))

    def _is_same(self, problem: Problem, first: Problem) -> bool | None:
        """None: only an evaluation tells."""
        if not self.is_mathematics:
            return False
        if understand(problem.answer, problem.hints).key == understand(first.answer, first.hints).key:
            return True
        verdicts = [
            judge_at_sight(problem.answer, first.answer, first.hints),
            judge_at_sight(first.answer, problem.answer, problem.hints),
        ]
        return True if _says_right(verdicts) else None if None in verdicts else False

    def contradictions(self) -> dict[str, str]:
        """Key and reason of each problem whose other answer an evaluation tells; starts a grading process if any."""
        if not self._undecided:
            return {}
        with GraderPool(1, BUDGET) as pool:
            forth = pool.grade([(again.answer, first.answer, first.hints) for again, first in self._undecided])
            back = pool.grade([(first.answer, again.answer, again.hints) for again, first in self._undecided])
        return {
            again.key: _contradiction(again, first)
            for (again, first), verdicts in zip(self._undecided, zip(forth, back, strict=True), strict=True)
            if not _says_right(verdicts)
        }


def _says_right(verdicts: Sequence[Verdict | None]) -> bool:
    return any(verdict is not None and verdict.grade is Grade.RIGHT for verdict in verdicts)


def _contradiction(problem: Problem, first: Problem) -> str:
    return (
        f"the problem of {first.key} again, with another answer: {problem.answer!r:.80} instead of {first.answer!r:.80}"
    )
