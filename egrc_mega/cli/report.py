"""`egrc report`: builds the page of a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not, or of egrc eval.")]) -> None:
    """Build report.html of a run: one self-contained page."""
    from egrc_mega.report.build import build_report, missing_parts

    print(build_report(run))
    for part in missing_parts(run):
        print(f"missing: {part}", file=sys.stderr)
