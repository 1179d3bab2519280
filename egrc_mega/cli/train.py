"""`egrc train`."""

from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFile, Overrides


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an earlier run of that folder aside first.")] = False,
    nproc_per_node: Annotated[
        int, typer.Option("--nproc-per-node", min=1, help="Processes on this machine; above 1 torchrun starts them.")
    ] = 1,
) -> None:
    """Train: compress, explore, evaluate, export, report."""
    from egrc_mega.launch.train import launch

    raise typer.Exit(launch(config, overrides or [], resume=resume, fresh=fresh, num_processes=nproc_per_node))
