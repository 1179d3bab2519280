"""`egrc top`: a run on one page of a terminal, while it goes on."""

from pathlib import Path
from typing import Annotated

import typer


def top(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    once: Annotated[bool, typer.Option("--once", help="Print the page once, as pipes get it anyway.")] = False,
) -> None:
    """Show ranks, servers, queue, throughput and the last events of a run, until it is over or Ctrl-C."""
    from egrc_mega.launch.top import top as show

    show(run, once=once)
