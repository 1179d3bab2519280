"""`egrc data`: looks at data files as a run would read them."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import MaybeConfigFiles, Overrides
from egrc_mega.plain_text import plain

app = typer.Typer(no_args_is_help=True, help="Look at data files, and learn where data sets come from.")


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


@app.command("fetch")
def fetch(
    name: Annotated[str | None, typer.Argument(help="A data set; without: all are listed.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="What was downloaded: a file or a folder.")] = None,
    target: Annotated[Path | None, typer.Option("--to", help="JSONL to write.")] = None,
) -> None:
    """Say where a data set comes from, its licence, rows and columns; with --from and --to, convert a download.

    Nothing is downloaded: licences are yours to accept.
    """
    from egrc_mega.errors import ConfigError
    from egrc_mega.launch.data_sets import DATA_SETS, convert, data_set, described

    if name is None:
        for each in DATA_SETS.values():
            print(f"{each.name:<16} {max(each.rows):>6} rows  {each.what}")
        return
    chosen = data_set(name)
    if (source is None) != (target is None):
        raise ConfigError("egrc data fetch: give --from and --to, or neither")
    print(convert(chosen, source, target) if source and target else "\n".join(described(chosen)))
