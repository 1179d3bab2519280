"""`egrc data`: looks at data files as a run would read them."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import MaybeConfigFiles, Overrides
from egrc_mega.plain_text import plain

app = typer.Typer(no_args_is_help=True, help="Look at data files.")


@app.callback()
def group() -> None:
    """Keeps `inspect` a subcommand."""


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON array or parquet, plain or under gzip.")],
    config: MaybeConfigFiles = None,
    overrides: Overrides = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Model folder whose chat template renders the prompts.")
    ] = None,
    prompt_key: Annotated[str | None, typer.Option("--prompt-key", help="Field of the problem's text.")] = None,
    answer_key: Annotated[str | None, typer.Option("--answer-key", help="Field of the gold answer.")] = None,
    answer_type: Annotated[str | None, typer.Option("--answer-type", help="Type that every gold is of.")] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Conventions of the data set (docs/grading.md).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File for the bad rows, all of them.")] = None,
) -> None:
    """Read every row, render the prompts and understand the golds; say what there is, and what a run would set aside.

    Without a configuration the keys of well-known data sets are found. Exits with 3 where a run would refuse the file.
    """
    from egrc_mega.data.quarantine import set_aside
    from egrc_mega.launch.inspect_data import inspect_data

    keys = {"prompt_key": prompt_key, "answer_key": answer_key, "answer_type": answer_type}
    stated = {name: value for name, value in keys.items() if value is not None}
    census = inspect_data(file, config or [], overrides or [], model=model, stated=stated, profile=profile)
    print(plain("\n".join(census.lines())))
    if out is not None:
        set_aside(census.reading.bad, out)
    census.refuse_bad()
