"""`egrc train`: starts a run, or says what it would be."""

from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFiles, Overrides


def train(
    config: ConfigFiles,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an earlier run of that folder aside first.")] = False,
    nproc_per_node: Annotated[
        int, typer.Option("--nproc-per-node", min=1, help="Processes on this machine; above 1 torchrun starts them.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, start nothing.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A second line a step, with all the rest.")] = False,
    nnodes: Annotated[int, typer.Option("--nnodes", min=1, help="Nodes of the plan; with --dry-run only.")] = 1,
) -> None:
    """Train: compress, explore, evaluate, export, report."""
    from egrc_mega.errors import ConfigError
    from egrc_mega.launch.dry_run import dry_run as plan
    from egrc_mega.launch.train import launch

    if dry_run:
        print(plan(config, overrides or [], num_nodes=nnodes, num_processes=nproc_per_node))
        raise typer.Exit
    if nnodes > 1:
        raise ConfigError(f"--nnodes: {nnodes} needs --dry-run, which prints the command to run on each node")

    chosen = [*(overrides or []), *(["observe.verbose=true"] if verbose else [])]
    raise typer.Exit(launch(config, chosen, resume=resume, fresh=fresh, num_processes=nproc_per_node))
