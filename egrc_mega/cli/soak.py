"""`egrc soak`: throws random faults at a run, and sees that the five laws hold."""

from pathlib import Path
from typing import Annotated

import typer


def soak(
    minutes: Annotated[float, typer.Option(min=0, help="How long; one round is run at least.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the faults, their places and their order.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the runs, and for summary.json; it must not be there.")] = Path(
        "runs/soak"
    ),
    first_round: Annotated[int, typer.Option("--round", min=1, help="Number of the round to begin with.")] = 1,
) -> None:
    """Throw a seed's faults at the miniature on two ranks with two servers; exit code 1 when a law is broken."""
    import json

    from egrc_mega.soak.soak import soak as run

    summary = run(seed, minutes, out, lambda line: print(line, flush=True), first_round)
    print(json.dumps(summary, indent=1))
    raise typer.Exit(0 if summary["holds"] else 1)
