"""`egrc export`: the best, the latest or any kept step of a run as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    step: Annotated[str, typer.Option("--step", help="best, latest, or a number.")] = "best",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; else RUN/export_step_N.")] = None,
) -> None:
    """Write a checkpoint of a run as a Hugging Face folder; the run's own `export/` is its last step."""
    from egrc_mega.launch.export_step import export_step

    print(export_step(run, step, out, lambda text: typer.echo(f"egrc: note: {text}", err=True)))
