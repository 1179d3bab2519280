"""The table of the paper's form as text, Markdown, LaTeX and JSON, and what the paired tests say in words."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson

from egrc_mega.evaluation.side_by_side import Cell, SideBySide
from egrc_mega.evaluation.statistics.intervals import Estimate

FIGURES = ("ACC", "LEN", "L-Acc")
IN_A_ROW = 3
"""Benchmarks beside each other in a text of 80 columns."""
LATEX_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def as_text(table: SideBySide) -> str:
    """For terminals: the table, then a line for each model and benchmark."""
    lines: list[str] = []
    width = max(map(len, [*table.rows, "model"]))
    for start in range(0, len(table.benchmarks), IN_A_ROW):
        names = table.benchmarks[start : start + IN_A_ROW]
        lines.append(" " * width + "".join(f"  {name:^18}" for name in names).rstrip())
        lines.append("model".ljust(width) + "".join("  " + "".join(f"{f:>6}" for f in FIGURES) for _ in names))
        for label, cells in table.rows.items():
            figures = ["".join(f"{figure:>6}" for figure in _figures(cells.get(name))) for name in names]
            lines.append(label.ljust(width) + "".join(f"  {each}" for each in figures))
        lines.append("")
    return "\n".join([*lines, *sentences(table)])


def as_markdown(table: SideBySide) -> str:
    """A table with a column for each figure; intervals stand behind the figures."""
    heads = [f"{name} {figure}" for name in table.benchmarks for figure in FIGURES]
    lines = [f"| model | {' | '.join(map(_in_markdown, heads))} |", f"|---|{'---|' * len(heads)}"]
    for label, cells in table.rows.items():
        figures = [each for name in table.benchmarks for each in _with_intervals(cells.get(name))]
        lines.append(f"| {_in_markdown(label)} | {' | '.join(figures)} |")
    return "\n".join([*lines, "", *(f"- {_in_markdown(line)}" for line in sentences(table))])


def as_latex(table: SideBySide) -> str:
    """A `tabular` for `booktabs`, as the paper has it."""
    names = table.benchmarks
    lines = [
        f"\\begin{{tabular}}{{l{'rrr' * len(names)}}}",
        "\\toprule",
        "Model" + "".join(f" & \\multicolumn{{3}}{{c}}{{{_in_latex(name)}}}" for name in names) + " \\\\",
        " & ".join(["", *("ACC & LEN & L-Acc" for _ in names)]) + " \\\\",
        "\\midrule",
    ]
    for label, cells in table.rows.items():
        figures = [each for name in names for each in _figures(cells.get(name))]
        lines.append(" & ".join([_in_latex(label), *figures]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {line}" for line in sentences(table))])


def as_json(table: SideBySide) -> str:
    """All numbers, with the hashes of model, protocol and result behind each cell."""
    return orjson.dumps(table.as_json(), option=orjson.OPT_INDENT_2).decode()


FORMS: Mapping[str, Callable[[SideBySide], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "json": as_json,
}
"""By name."""


def sentences(table: SideBySide) -> Iterator[str]:
    """What each model's cells say against the base, with intervals and tests; the base's own protocol first."""
    for label, cells in table.rows.items():
        for name, cell in cells.items():
            if label == table.base:
                n = "-".join(map(str, dict.fromkeys(cell.samples_per_problem)))
                yield (
                    f"base {label} on {name}: {cell.num_problems} problems, n {n}, length in {cell.length_unit}, "
                    f"{cell.measured.key}"
                )
            elif cell.comparison is not None:
                yield _sentence(f"{label} on {name}", cell)


def _sentence(what: str, cell: Cell) -> str:
    found, parts = cell.comparison, []
    assert found is not None
    if found.length_ratio is not None:
        parts.append(f"length {_percent(found.length_ratio)} % of the base's ({_p(found.length_p)})")
    if found.accuracy_difference is not None:
        parts.append(
            f"accuracy {_percent(found.accuracy_difference, '+')} points ({_p(found.accuracy_p)}; "
            f"{found.num_better} better, {found.num_worse} worse of {found.num_problems})"
        )
    if cell.l_acc is not None:
        flag = ", no shorter than the base's" if cell.l_acc.is_no_shorter else ""
        parts.append(f"L-Acc {_percent(cell.l_acc.estimate)}{flag}")
    return f"{what}: {'; '.join(parts) or 'nothing to compare'}"


def _figures(cell: Cell | None) -> Sequence[str]:
    """Accuracy in per cent, mean length, L-Acc in points; `*` where the responses are no shorter than the base's."""
    if cell is None:
        return "", "", ""
    l_acc = "-" if cell.l_acc is None else f"{100 * cell.l_acc.estimate.value:.1f}{'*' * cell.l_acc.is_no_shorter}"
    return (
        "-" if cell.accuracy is None else f"{100 * cell.accuracy.estimate.value:.1f}",
        "-" if cell.length is None else f"{cell.length.value:.0f}",
        l_acc,
    )


def _with_intervals(cell: Cell | None) -> Sequence[str]:
    accuracy, length, l_acc = _figures(cell)
    if cell is None:
        return accuracy, length, l_acc
    return (
        f"{accuracy}{_interval(cell.accuracy.estimate.times(100), 1)}" if cell.accuracy else accuracy,
        f"{length}{_interval(cell.length, 0)}" if cell.length else length,
        f"{l_acc}{_interval(cell.l_acc.estimate.times(100), 1)}" if cell.l_acc else l_acc,
    )


def _interval(estimate: Estimate, digits: int) -> str:
    return f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _percent(estimate: Estimate, sign: str = "") -> str:
    each = estimate.times(100)
    return f"{each.value:{sign}.1f} [{each.low:{sign}.1f}, {each.high:{sign}.1f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "p -"
    return "p < 0.0001" if value < 1e-4 else f"p {value:.2g}"


def _in_markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _in_latex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)
