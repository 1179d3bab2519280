"""`egrc publish`: the folder of a finished run, ready to be shared."""

from pathlib import Path
from typing import Annotated

import typer


def publish(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to write; without: publish, within the run's.")
    ] = None,
) -> None:
    """Write the Hugging Face folder with a model card, proved against the trained weights. Nothing is uploaded."""
    import sys

    from egrc_mega.launch.publish import publish as published

    folder = published(run, to, lambda line: print(f"egrc: {line}", file=sys.stderr))
    print(f"{folder} is ready; upload it with: hf upload OWNER/NAME {folder}")
