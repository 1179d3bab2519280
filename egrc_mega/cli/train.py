"""`egrc train`: starts a run, or says what it would be."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFiles, Overrides


def train(
    config: ConfigFiles,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    resume_if_begun: Annotated[
        bool, typer.Option("--resume-if-begun", help="Go on where the folder holds a run, begin where it holds none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an earlier run of that folder aside first.")] = False,
    supervised: Annotated[
        bool,
        typer.Option("--supervise", help="Start it again from its last checkpoint when it dies; as --resume-if-begun."),
    ] = False,
    nproc_per_node: Annotated[
        int, typer.Option("--nproc-per-node", min=1, help="Processes on this machine; above 1 torchrun starts them.")
    ] = 1,
    nnodes: Annotated[
        int, typer.Option("--nnodes", min=1, help="Machines; the same command on each, but for --node-rank.")
    ] = 1,
    node_rank: Annotated[int, typer.Option("--node-rank", min=0, help="Which of them this is, from 0.")] = 0,
    master_addr: Annotated[str, typer.Option("--master-addr", help="Address of node 0.")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option("--master-port", min=1, max=65535, help="A free port there.")] = 29500,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay-rollouts", help="Train on what another run has sampled, without servers.", metavar="RUN"
        ),
    ] = None,
    rollouts_only: Annotated[
        bool, typer.Option("--rollouts-only", help="Sample and write the rollouts of all steps, without a trainer.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, start nothing.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A second line a step, with all the rest.")] = False,
) -> None:
    """Train: compress, explore, evaluate, export, report."""
    from egrc_mega.config.load import load_config
    from egrc_mega.errors import ConfigError
    from egrc_mega.stop_signal import take_hangup_for_sigterm

    if not dry_run:
        take_hangup_for_sigterm()
    chosen = [*(overrides or []), *(["observe.verbose=true"] if verbose else [])]
    chosen += [f"run.replay_rollouts={replay}"] if replay else []
    load_config(config, chosen)  # a mistake in it is told at once: what follows imports torch
    from egrc_mega.launch.dry_run import dry_run as plan
    from egrc_mega.launch.train import World, launch, sample_only, supervise

    if dry_run:
        print(plan(config, chosen, num_nodes=nnodes, num_processes=nproc_per_node))
        raise typer.Exit
    if node_rank >= nnodes:
        raise ConfigError(f"--node-rank: {node_rank} must be below --nnodes {nnodes}; nodes are counted from 0")
    if resume and fresh:
        raise ConfigError("--fresh: moves aside what --resume would go on with; give one of them")
    if rollouts_only:
        if resume or resume_if_begun or supervised or nnodes * nproc_per_node > 1:
            raise ConfigError(
                "--rollouts-only: samples in one process, from the begin; leave out what goes on or shares"
            )
        raise typer.Exit(sample_only(config, chosen, fresh=fresh))
    world = World(nproc_per_node, nnodes, node_rank, master_addr, master_port)
    goes_on = None if (resume_if_begun or supervised) and not resume else resume
    start = supervise if supervised else launch
    raise typer.Exit(start(config, chosen, world, resume=goes_on, fresh=fresh))
