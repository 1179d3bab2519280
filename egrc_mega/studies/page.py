"""Writes what a study has measured: a table as JSON and as Markdown, the plots, and one page that holds it all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from egrc_mega.report.template import template
from egrc_mega.run_folder import is_held
from egrc_mega.studies.claims import judge
from egrc_mega.studies.drawings import curve_plot, pareto_plots
from egrc_mega.studies.grid import Cell, Study
from egrc_mega.studies.records import Result, read_result, write_whole
from egrc_mega.studies.table import Table, build_table, plain
from egrc_mega.studies.words import Listing, claims_listing, markdown, table_listing

NOTE = (
    "Means over seeds ± standard errors (standard deviation over seeds, ddof 1, by the root of their number); in "
    "brackets the difference to {reference}, taken seed by seed. Entropies, words and groups are of the last five "
    "training steps; the rest is of the evaluation. All seeds begin with one base model, which is measured "
    "once. Wall seconds are of training and evaluation, without the start of the processes."
)
STAGE_NOTE = "Evaluations after each stage; entropies and words are of the last five steps of the stage."
PARETO_NOTE = "The line joins whoever no other beats in both; bars are one standard error over seeds; grey: the base."
CURVE_NOTE = "Means over seeds, smoothed over five steps."


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of the page, and the name of its file."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the page says."""

    status: str
    table: Table
    listings: Sequence[Listing]
    plots: Sequence[Plot]


def write_findings(study: Study) -> str:
    """Write table, plots and page into the study's folder; returns the table as text.

    Raises:
        RunError: a result cannot be read.
    """
    results = {cell.name: read_result(cell.folder) for cell in study.cells}
    found = _findings(study, results)
    folder, stem = study.section.dir, study.file.stem
    folder.mkdir(parents=True, exist_ok=True)
    for plot in found.plots:
        write_whole(folder / f"{stem}_{plot.name}.svg", plot.svg.encode())
    write_whole(folder / f"{stem}.md", _markdown(study, found).encode())
    content = orjson.dumps({"study": study.title, "rows": plain(found.table)}, option=orjson.OPT_INDENT_2)
    write_whole(folder / f"{stem}.json", content)
    page = template("study.html.j2").render(
        title=study.title,
        status=found.status,
        about=study.section.about,
        findings=study.section.findings,
        listings=found.listings,
        plots=found.plots,
        command=_command(study),
        config_text=study.file.read_text(encoding="utf-8"),
    )
    write_whole(folder / f"{stem}.html", page.encode())
    return "\n\n".join(markdown(listing) for listing in found.listings)


def _findings(study: Study, results: Mapping[str, Result | None]) -> Findings:
    ended = [result for result in results.values() if result and result.failure is None]
    by_setting = {name: [result for result in ended if result.setting == name] for name in study.settings}
    table = build_table(study.settings, study.reference, by_setting)
    listings = []
    if study.section.claims:
        listings.append(claims_listing(judge(study.section.claims, by_setting)))
    note = NOTE.format(reference=study.reference)
    listings.append(table_listing("Settings at their end", note, table.columns, table.rows, by_stage=False))
    if table.stage_rows:
        listings.append(
            table_listing("After each stage", STAGE_NOTE, table.stage_columns, table.stage_rows, by_stage=True)
        )
    if open_cells := _open_cells(study.cells, results):
        listings.append(Listing("Cells without figures", "", ["cell", "why"], open_cells))
    plots = [
        Plot(name, f"Accuracy against length, T {name.removeprefix('pareto_t')}", PARETO_NOTE, svg)
        for name, svg in pareto_plots(table, by_setting).items()
    ]
    if curves := curve_plot(by_setting, study.section.curves):
        plots.append(Plot("curves", "Training", CURVE_NOTE, curves))
    return Findings(_status(study, ended, results), table, listings, plots)


def _open_cells(cells: Sequence[Cell], results: Mapping[str, Result | None]) -> list[list[str]]:
    rows = []
    for cell in cells:
        result = results[cell.name]
        if result is None:
            rows.append([cell.name, _why_open(cell)])
        elif result.failure is not None:
            rows.append([cell.name, f"failed: {result.failure}"])
    return rows


def _why_open(cell: Cell) -> str:
    run_dir = cell.folder / "run"
    if run_dir.is_dir() and is_held(run_dir):
        return "still running"
    return "stopped before its end; the next egrc study goes on with it" if run_dir.is_dir() else "not run yet"


def _status(study: Study, ended: Sequence[Result], results: Mapping[str, Result | None]) -> str:
    num_failed = sum(result is not None and result.failure is not None for result in results.values())
    parts = [f"{len(ended)} of {len(study.cells)} cells ended", f"{num_failed} failed"]
    times = [(result.started, result.ended) for result in ended if result.started and result.ended]
    if times:
        span = max(end for _start, end in times) - min(start for start, _end in times)
        parts.append(f"{span / 60:.0f} min from the first start to the last end")
        parts.append(f"{sum(result.wall_s or 0.0 for result in ended) / 60:.0f} min of runs")
    parts += sorted({result.machine for result in ended})
    parts += sorted({f"egrc_mega {result.version}" for result in ended})
    return " · ".join(parts)


def _markdown(study: Study, found: Findings) -> str:
    parts = [f"# {study.title}", f"`{_command(study)}`: {found.status}", *study.section.about]
    for place, listing in enumerate(found.listings):
        parts += [f"## {listing.title}", markdown(listing), *([listing.note] if listing.note else [])]
        if place == 0 and study.section.findings:
            parts += ["## What was found", *study.section.findings]
    for plot in found.plots:
        parts += [f"## {plot.title}", f"![{plot.title}]({study.file.stem}_{plot.name}.svg)", plot.caption]
    return "\n\n".join(parts) + "\n"


def _command(study: Study) -> str:
    """As it is typed in the repository, or wherever the file is."""
    file = study.file.resolve()
    return f"egrc study {Path(*file.parts[-3:]) if file.parent.parent.name == 'configs' else file}"
