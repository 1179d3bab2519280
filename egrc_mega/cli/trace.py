"""`egrc trace`: one step of a run across ranks and servers, to be looked at in Perfetto."""

from pathlib import Path
from typing import Annotated

import typer


def trace(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.", metavar="RUN")],
    step: Annotated[int | None, typer.Option("--step", help="Step to show, from 1; without: the newest.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write; without: RUN/trace_step_N.json.", metavar="FILE")
    ] = None,
) -> None:
    """Write a step's spans of all ranks and servers as Chrome/Perfetto JSON, for https://ui.perfetto.dev."""
    from egrc_mega.observe.trace import write_trace

    path, told = write_trace(run, step, to)
    print(f"{told}: {path}; open it at https://ui.perfetto.dev")
