"""The responses to a few problems side by side: what the paper's fig. 4 draws."""

from collections.abc import Collection
from typing import Any

from egrc_mega.diagnosis.texts import TextFacts

MAX_PROBLEMS = 30
"""As many as AIME24 has."""


class Bars:
    """The first response to each of a few problems."""

    def __init__(self, problems: Collection[str] | None = None) -> None:
        """`problems`: ids of those that count; None: the first MAX_PROBLEMS."""
        self.problems = problems
        self.found: dict[str, dict[str, Any]] = {}

    def add(self, facts: TextFacts) -> None:
        """Keep a response if it is the first to a problem that counts."""
        is_asked = len(self.found) < MAX_PROBLEMS if self.problems is None else facts.problem_id in self.problems
        if is_asked and facts.problem_id not in self.found:
            self.found[facts.problem_id] = {
                "length": facts.length,
                "words": facts.words,
                "steps": facts.steps,
                "verdict": facts.verdict,
                "loops": facts.loop is not None,
            }


def paired(own: Bars, base: Bars | None) -> list[dict[str, Any]]:
    """One row a problem, in the order of the base, or of the responses where there is none; None: no response."""
    problems = base.found if base else own.found
    return [
        {"problem": problem, "own": own.found.get(problem), "base": base.found.get(problem) if base else None}
        for problem in problems
    ]
