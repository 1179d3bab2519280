"""Options that several subcommands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFiles = Annotated[
    list[Path],
    typer.Option("--config", "-c", help="YAML file; see configs/. May be repeated: later files win.", metavar="FILE"),
]
MaybeConfigFiles = Annotated[
    list[Path] | None,
    typer.Option("--config", "-c", help="YAML file; see configs/. May be repeated: later files win.", metavar="FILE"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value, e.g. --set stages.compress.steps=20.", metavar="KEY=VALUE"),
]
