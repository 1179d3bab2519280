"""`egrc miniature`: remakes the shipped base model and its data."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The miniature task: its base model and data.")

Target = Annotated[Path, typer.Argument(help="Folder to write.")]


@app.command("make-base")
def make_base(target: Target) -> None:
    """Remake the shipped base model by supervised training; about four minutes on one core."""
    from egrc_mega.miniature.base_model import make_base as make

    make(target)


@app.command("make-data")
def make_data(target: Target) -> None:
    """Remake the shipped train.jsonl and eval.jsonl."""
    from egrc_mega.miniature.dataset import write_dataset

    write_dataset(target)
