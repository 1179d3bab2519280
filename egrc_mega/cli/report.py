"""`egrc report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")]) -> None:
    """Build report.html of a run: one self-contained page."""
    from egrc_mega.report.build import build_report

    print(build_report(run))
