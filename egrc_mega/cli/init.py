"""`egrc init`: writes a first configuration for a model and data."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="New folder for the configuration and the run.", metavar="DIR")],
    model: Annotated[Path, typer.Option("--model", help="Hugging Face folder of the model.")],
    data: Annotated[Path, typer.Option("--data", help="Problems to train on: JSONL, JSON array or parquet.")],
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="Problems never trained on; without: those of --data, marked so.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Text after every problem; without: to reason, and to box.")
    ] = None,
    prompt_key: Annotated[
        str | None,
        typer.Option("--prompt-key", help="Field of the problem's text; without: usual names are tried."),
    ] = None,
    answer_key: Annotated[
        str | None, typer.Option("--answer-key", help="Field of the gold answer; without: usual names are tried.")
    ] = None,
) -> None:
    """Write a commented configuration: keys, template, lengths and servers are filled in from model and data."""
    from egrc_mega.launch.new_config import BOXED, write_config

    keys = {"prompt_key": prompt_key, "answer_key": answer_key}
    stated = {name: key for name, key in keys.items() if key is not None}
    path = write_config(folder, model, data, evaluation, BOXED if instruction is None else instruction, stated)
    print(f"{path} is written. See what it would do, then start it:")
    print(f"  egrc train --config {path} --dry-run")
    print(f"  egrc train --config {path}")
