"""Evaluations side by side, in the form of the paper's table: accuracy, length, L-Acc of each model on each benchmark.

The base is one of the evaluations. A cell is held against the base's cell of the same benchmark, which must have been
measured by the same protocol.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from egrc_mega.errors import DataError
from egrc_mega.evaluation.results import Evaluation, require_same_protocol
from egrc_mega.evaluation.statistics.comparison import Comparison, compared
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.evaluation.statistics.l_acc import LengthAccuracy, Measured, l_acc_against
from egrc_mega.evaluation.statistics.lengths import mean_length
from egrc_mega.evaluation.statistics.shares import Share, pass_at_1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model on one benchmark."""

    measured: Measured
    num_problems: int
    samples_per_problem: tuple[int, int]
    accuracy: Share | None
    length: Estimate | None
    length_unit: str
    l_acc: LengthAccuracy | None
    """None for the base itself, and where nothing can be compared."""
    comparison: Comparison | None
    """With the base, problem by problem; None for the base itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """The whole table, as numbers."""

    base: str
    """Label of the base."""
    benchmarks: tuple[str, ...]
    rows: dict[str, dict[str, Cell]]
    """Cells by label and benchmark; a model that has not been measured on a benchmark has no cell there."""

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        rows = {label: {name: asdict(cell) for name, cell in cells.items()} for label, cells in self.rows.items()}
        return {"base": self.base, "benchmarks": self.benchmarks, "rows": rows}


def side_by_side(
    evaluations: Sequence[Evaluation], base: Evaluation, benchmarks: Sequence[str] | None = None
) -> SideBySide:
    """Put evaluations beside their base, which comes first.

    Args:
        benchmarks: which, in this order; None: all that are there.

    Raises:
        DataError: two evaluations have one label, none has one of the benchmarks, or the base is no base for another.
    """
    rows = [base, *(each for each in evaluations if each is not base)]
    labels = [each.label for each in rows]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise DataError(f"two evaluations are called {twice!r}; evaluate one of them with another --label")
    names = tuple(benchmarks or dict.fromkeys(name for each in rows for name in each.sets))
    for name in names:
        if not any(name in each.sets for each in rows):
            raise DataError(f"--benchmarks: none of the evaluations has {name!r}; they have {sorted(base.sets)}")
    found = {each.label: {name: _cell(each, base, name) for name in names if name in each.sets} for each in rows}
    return SideBySide(base=base.label, benchmarks=names, rows=found)


def _cell(each: Evaluation, base: Evaluation, name: str) -> Cell:
    own = each.sets[name]
    outcomes, measured = own.outcomes, each.measured(name)
    l_acc = comparison = None
    if each is not base and name in base.sets:
        require_same_protocol(each, base, name)
        l_acc = l_acc_against(outcomes, measured, base.sets[name].outcomes, base.measured(name))
        comparison = compared(outcomes, each.label, base.sets[name].outcomes, base.label)
    return Cell(
        measured=measured,
        num_problems=len(outcomes.keys),
        samples_per_problem=outcomes.samples_per_problem,
        accuracy=pass_at_1(outcomes),
        length=mean_length(outcomes),
        length_unit=own.protocol["length_unit"],
        l_acc=l_acc,
        comparison=comparison,
    )
