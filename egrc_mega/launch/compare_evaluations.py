"""Compares evaluations that are there: prints the table, and draws accuracy against length."""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from egrc_mega.errors import ConfigError
from egrc_mega.evaluation.paper import table_1, table_2
from egrc_mega.evaluation.run_results import all_evaluations
from egrc_mega.evaluation.side_by_side import Cell, SideBySide, side_by_side
from egrc_mega.evaluation.table_forms import FORMS


def compare_evaluations(
    runs: Sequence[Path], base: Path | None, benchmarks: Sequence[str] | None, form: str, plot: Path | None
) -> str:
    """The table in the form that was asked for.

    Args:
        runs: folders of `egrc eval`, or of runs, which have an evaluation for their base and each stage.
        base: the folder whose first evaluation the others began as; None: the first.
        plot: an .svg file to draw.

    Raises:
        EgrcError: an evaluation cannot be read, or they cannot be compared.
    """
    if form not in FORMS:
        raise ConfigError(f"--format: {form!r} is unknown; choose from {', '.join(FORMS)}")
    if plot is not None and plot.suffix != ".svg":
        raise ConfigError(f"--plot: {plot} must end in .svg")
    evaluations = all_evaluations([*([base] if base else []), *runs])
    for folder in (folder for folder, found in evaluations.items() if not found):
        print(f"{folder} adds no row: the same weights, with the same responses, are there already", file=sys.stderr)
    rows = [each for found in evaluations.values() for each in found]
    table = side_by_side(rows, evaluations[base or runs[0]][0], benchmarks)
    if plot is not None:
        plot.write_text(_drawn(table))
    return FORMS[form](table)


def _drawn(table: SideBySide) -> str:
    """A point a model: the means over the benchmarks that all of them were measured on; of one, with its intervals."""
    from egrc_mega.report.pareto import ParetoPoint, draw_pareto

    names = [name for name in table.benchmarks if all(_has_point(cells.get(name)) for cells in table.rows.values())]
    if not names:
        raise ConfigError("--plot: there is no benchmark on which every model has an accuracy and a length")
    points = []
    for label, cells in table.rows.items():
        accuracies = [cells[name].accuracy.estimate for name in names]  # type: ignore[union-attr]
        lengths = [each for name in names if (each := cells[name].length) is not None]
        is_one = len(names) == 1
        points.append(
            ParetoPoint(
                name=label,
                length=fmean(each.value for each in lengths),
                accuracy=fmean(each.value for each in accuracies),
                length_interval=(lengths[0].low, lengths[0].high) if is_one else None,
                accuracy_interval=(accuracies[0].low, accuracies[0].high) if is_one else None,
                is_base=label == table.base,
            )
        )
    return draw_pareto(points, f"accuracy against mean length on {', '.join(names)}")


def _has_point(cell: Cell | None) -> bool:
    return cell is not None and cell.accuracy is not None and cell.length is not None


def paper_tables() -> str:
    """Tables 1 and 2 as printed, L-Acc recomputed, and a mark at each printed L-Acc that is not its formula's."""
    lines = [f"{'table':<6}{'size':<5}{'model':<26}{'benchmark':<14}{'ACC':>6}{'LEN':>7}{'L-Acc':>7}{'formula':>9}"]
    for cell in [*table_1(), *table_2()]:
        printed = "-" if cell.l_acc is None else f"{cell.l_acc:.1f}"
        formula = "-" if cell.recomputed is None else f"{cell.recomputed:.1f}"
        lines.append(
            f"{cell.table:<6}{cell.size:<5}{cell.model:<26}{cell.benchmark:<14}{cell.accuracy:>6.1f}"
            f"{cell.length:>7.0f}{printed:>7}{formula:>9}{'  differs' if cell.disagrees else ''}"
        )
    return "\n".join(lines)
