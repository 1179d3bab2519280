"""`egrc miniature`: makes a base model and the data anew."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The miniature task: its base model and data.")

Target = Annotated[Path, typer.Argument(help="Folder to write.")]


@app.command("make-base")
def make_base(target: Target) -> None:
    """Train a base model by the shipped one's recipe; about four minutes on one core."""
    from egrc_mega.miniature.base_model import make_base as make

    make(target)


@app.command("make-data")
def make_data(target: Target) -> None:
    """Remake the shipped train.jsonl and eval.jsonl."""
    from egrc_mega.miniature.dataset import write_dataset

    write_dataset(target)
