"""Several runs beside each other: their evaluations by the same protocol, paired, and what differs in how they ran."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from egrc_mega.errors import ConfigError
from egrc_mega.evaluation.records import SHOWN_DIGITS, Point, Protocol
from egrc_mega.evaluation.statistics.comparison import compared
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.report.browser import clipped
from egrc_mega.report.build import RunView
from egrc_mega.report.curves import curves_of, rounded
from egrc_mega.report.evaluations import Measured, outcomes_of, row_of
from egrc_mega.report.page import page_of, write_page

COMPARISON = "comparison.html"
Rows = list[list[str | None]]


def build_comparison(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page that compares runs; without `out` as `comparison.html` beside the first one's folder.

    Raises:
        ConfigError: a folder is named twice.
        RunError: a folder holds nothing that a page could show.
    """
    resolved = [folder.resolve() for folder in folders]
    twice = next((folder for folder in resolved if resolved.count(folder) > 1), None)
    if twice is not None:
        raise ConfigError(f"RUN: {twice} is given twice; give different runs to compare")
    views = [RunView.of(folder) for folder in folders]
    for view in views:
        view.journal.advance()
    names = distinct(resolved)
    runs = [view.light() | {"name": n, "curves": curves_of(view.journal)} for view, n in zip(views, names, strict=True)]
    comparison = {
        "tables": _tables(names, [Measured.of(folder) for folder in folders]),
        "settings": differing([[row[:2] for row in run["settings"]["rows"]] for run in runs]),
        "environment": differing([run["environment"] for run in runs]),
    }
    page = page_of(" and ".join(names), runs, comparison)
    path = out or resolved[0].parent / COMPARISON
    write_page(path, page)
    return path


def distinct(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = [clipped("/".join(folder.parts[-parts:])) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return names


def differing(runs: Sequence[Sequence[Sequence[str]]]) -> Rows:
    """Name and each run's value, of the names whose values are not all one; None: the run has no such name."""
    values = [{row[0]: row[1] for row in rows} for rows in runs]
    names = dict.fromkeys(name for own in values for name in own)
    rows: Rows = [[name, *(own.get(name) for own in values)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _tables(names: Sequence[str], measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """One table for each protocol by which at least two of the runs have measured."""
    protocols: dict[str, Protocol] = {}
    for own in measured:
        protocols |= own.table.protocols
    found = []
    for key, protocol in sorted(protocols.items(), key=lambda item: (item[1].benchmark, item[1].temperature)):
        owners = [i for i, own in enumerate(measured) if own.rows(key)]
        if len(owners) > 1:
            found.append(_table(key, protocol, {i: measured[i] for i in owners}, names))
    return found


def _table(key: str, protocol: Protocol, measured: Mapping[int, Measured], names: Sequence[str]) -> dict[str, Any]:
    last = {i: own.rows(key)[-1] for i, own in measured.items()}
    rows = [
        row_of(point, own.table.base_of(point)) | {"run": names[i], "place": i}
        for i, own in measured.items()
        for point in ([own.rows(key)[0]] if own.rows(key)[0] is not last[i] else []) + [last[i]]
    ]
    pairs = [_pair(names, measured, last, first, second) for first, second in combinations(last, 2)]
    return {
        "title": f"{protocol.benchmark} at temperature {protocol.temperature:g}",
        "caption": f"first and last point of each run · 95 % intervals · protocol {key[:SHOWN_DIGITS]}",
        "rows": rows,
        "pairs": [pair for pair in pairs if pair],
    }


def _pair(
    names: Sequence[str], measured: Mapping[int, Measured], last: Mapping[int, Point], first: int, second: int
) -> dict[str, Any] | None:
    """The last points of two runs, over the problems of which both have kept a response; None where there are none."""
    kept = {i: measured[i].kept(last[i]) for i in (first, second)}
    shared = {r.problem for r in kept[first]} & {r.problem for r in kept[second]}
    sides = [outcomes_of([r for r in kept[i] if r.problem in shared]) for i in (first, second)]
    if not shared:
        return None
    found = compared(sides[0], names[first], sides[1], names[second])
    return {
        "first": names[first],
        "second": names[second],
        "accuracy": _cells(found.accuracy_difference),
        "accuracy_p": rounded(found.accuracy_p),
        "better": found.num_better,
        "worse": found.num_worse,
        "length": _cells(found.length_ratio),
        "length_p": rounded(found.length_p),
        "note": f"{len(shared)} of {last[first].n} problems, whose responses are kept",
    }


def _cells(estimate: Estimate | None) -> list[float | None] | None:
    return [rounded(v) for v in (estimate.value, estimate.low, estimate.high)] if estimate else None
