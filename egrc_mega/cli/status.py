"""`egrc status` and `egrc stop`: a look at a run from anywhere, and its orderly end."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as JSON.")] = False,
) -> None:
    """Say how a run is: running, finished, stopped or crashed, its step, commit, ranks, servers and evaluation.

    Exit code 1 when it has crashed.
    """
    from egrc_mega.launch.status import lines, look

    found = look(run)
    print(json.dumps(asdict(found), indent=1) if as_json else "\n".join(lines(found)))
    raise typer.Exit(1 if found.state == "crashed" else 0)


def stop(run: RunArgument) -> None:
    """Have a run end after the step under way, committed, with exit code 75; `egrc train --resume` goes on."""
    from egrc_mega.launch.stop import stop as ask

    print(ask(run))
