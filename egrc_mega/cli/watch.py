"""`egrc watch`: the page of a run while it goes on."""

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not, or of egrc eval.", metavar="RUN")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On loopback; 0 lets the system choose.")] = 0,
) -> None:
    """Serve the report of a run on loopback, up to date while the run goes on, until Ctrl-C."""
    from egrc_mega.report.watch import watch as watched

    watched(run, port)
