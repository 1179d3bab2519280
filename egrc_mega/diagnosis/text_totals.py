"""Adds up what the texts of many responses show, for all and by verdict; a few numbers a response are held."""

from array import array
from collections import Counter
from typing import Any

import numpy as np

from egrc_mega.diagnosis.connectors import CONNECTORS
from egrc_mega.diagnosis.texts import TextFacts, redundant

ALL = "all"
NOT_JUDGED = "not judged"
ORDER = (ALL, "right", "wrong", "ungraded", NOT_JUDGED)
MAX_LOOPS = 100
"""Loops that are listed; all are counted."""


class TextTotals:
    """The sums of one set of responses."""

    def __init__(self) -> None:
        self.by_verdict: dict[str, _Sums] = {ALL: _Sums()}
        self.loops: list[dict[str, Any]] = []

    def add(self, facts: TextFacts) -> None:
        """Count one more response."""
        for name in (ALL, facts.verdict or NOT_JUDGED):
            self.by_verdict.setdefault(name, _Sums()).add(facts)
        if facts.loop and len(self.loops) < MAX_LOOPS:
            row = facts.as_row()
            listed = {name: row[name] for name in ("place", "verdict", "length", "words")}
            self.loops.append(listed | row["loop"] | {"share": facts.loop.span / facts.words})

    def result(self) -> dict[str, Any]:
        """Plain values: figures by verdict, each connector, and the loops that are listed."""
        return {
            "by_verdict": {name: self.by_verdict[name].figures() for name in ORDER if name in self.by_verdict},
            "connectors": self._connectors(),
            "loops": self.loops,
        }

    def _connectors(self) -> dict[str, dict[str, Any]]:
        """Of each connector: how often a response has it, in all and by verdict."""
        found = {}
        for name, (kind, _pattern) in CONNECTORS.items():
            own = {
                f"{verdict}_{place}": getattr(sums, place)[name] / sums.num
                for verdict, sums in self.by_verdict.items()
                for place in ("starting", "elsewhere")
                if sums.num
            }
            every = self.by_verdict[ALL]
            count = every.starting[name] + every.elsewhere[name]
            found[name] = {"kind": kind, "count": count, "per_1k_tokens": every.per_1k_tokens(count)} | own
        return found


class _Sums:
    """The responses of one verdict."""

    def __init__(self) -> None:
        self.lengths = array("q")
        self.steps = array("q")
        self.num = self.words = self.num_truncated = self.num_loops = self.redundant = 0
        self.repetition = 0.0
        self.starting: Counter[str] = Counter()
        self.elsewhere: Counter[str] = Counter()

    def add(self, facts: TextFacts) -> None:
        self.num += 1
        if facts.length is not None:
            self.lengths.append(facts.length)
        self.steps.append(facts.steps)
        self.words += facts.words
        self.num_truncated += bool(facts.truncated)
        self.num_loops += facts.loop is not None
        self.redundant += redundant(facts)
        self.repetition += facts.repetition
        self.starting.update(facts.starting)
        self.elsewhere.update(facts.elsewhere)

    def figures(self) -> dict[str, Any]:
        """Means a response, and quantiles; None where nothing is known."""
        starting, elsewhere = self.starting.total(), self.elsewhere.total()
        return {
            "num": self.num,
            "length": _spread(self.lengths),
            "steps": _spread(self.steps),
            "words": self._mean(self.words),
            "connectors_starting": self._mean(starting),
            "connectors_elsewhere": self._mean(elsewhere),
            "connectors_per_1k_tokens": self.per_1k_tokens(starting + elsewhere),
            "redundant": self._mean(self.redundant),
            "repetition": self._mean(self.repetition),
            "num_loops": self.num_loops,
            "num_truncated": self.num_truncated,
        }

    def per_1k_tokens(self, count: int) -> float | None:
        """A rate; None unless the length of every response is known."""
        num_tokens = sum(self.lengths)
        return 1000 * count / num_tokens if num_tokens and len(self.lengths) == self.num else None

    def _mean(self, total: float) -> float | None:
        return total / self.num if self.num else None


def _spread(values: "array[int]") -> dict[str, float] | None:
    if not values:
        return None
    found = np.frombuffer(values, np.int64)
    p50, p90 = np.quantile(found, [0.5, 0.9]).tolist()
    return {"mean": float(found.mean()), "p50": p50, "p90": p90, "max": float(found.max())}
