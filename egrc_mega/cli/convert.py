"""`egrc convert`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Convert between Hugging Face folders and Megatron checkpoints.")

Source = Annotated[Path, typer.Argument(help="What to read.")]
Target = Annotated[Path, typer.Argument(help="Folder to write; must not exist.")]


@app.command("hf-to-megatron")
def hf_to_megatron(source: Source, target: Target) -> None:
    """Hugging Face folder to a Megatron (torch_dist) checkpoint that loads at any parallel layout."""
    from egrc_mega.training.conversion import hf_to_megatron as convert

    convert(source, target)


@app.command("megatron-to-hf")
def megatron_to_hf(
    source: Source,
    target: Target,
    model: Annotated[Path, typer.Option("--model", help="Hugging Face folder for config and tokenizer.")],
) -> None:
    """Megatron checkpoint (a step of a run, or from hf-to-megatron) to a Hugging Face folder."""
    from egrc_mega.training.conversion import megatron_to_hf as convert

    convert(source, target, model)
