"""Options that several subcommands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="YAML file; see configs/.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value, e.g. --set stages.compress.steps=20.", metavar="KEY=VALUE"),
]
