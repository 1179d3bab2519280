"""`egrc report`: builds the page of a run, or one that compares several."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a run, finished or not, or of egrc eval; several are compared.", metavar="RUN..."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Page of the comparison; without: comparison.html beside the first run."),
    ] = None,
) -> None:
    """Build report.html of a run, or a page that compares several: one self-contained file."""
    from egrc_mega.errors import ConfigError
    from egrc_mega.report.build import build_report, missing_parts
    from egrc_mega.report.compared import build_comparison

    if len(runs) > 1:
        print(build_comparison(runs, out))
        return
    if out is not None:
        raise ConfigError("--out: is for a comparison of several runs; the page of one run stands in its folder")
    print(build_report(runs[0]))
    for part in missing_parts(runs[0]):
        print(f"missing: {part}", file=sys.stderr)
