"""`egrc stages`: replays the rules by which stages end."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFiles, Overrides

DRAWN = (".svg", ".png", ".pdf")
"""Formats of a drawing."""

app = typer.Typer(no_args_is_help=True, help="Look at the rules by which stages end.")


@app.callback()
def group() -> None:
    """Keeps `replay` a subcommand."""


@app.command("replay")
def replay(
    metrics: Annotated[Path, typer.Argument(help="A run folder, or its metrics.jsonl.")],
    config: ConfigFiles,
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it, e.g. replay.svg or replay.png.")] = None,
) -> None:
    """Say where a configuration's rules would have ended the stages of a recorded run."""
    from egrc_mega.config.load import load_config
    from egrc_mega.errors import RunError
    from egrc_mega.observe.events import read_steps
    from egrc_mega.stages.replay import replay as replayed

    metrics = metrics / "metrics.jsonl" if metrics.is_dir() else metrics
    if plot and plot.suffix not in DRAWN:
        raise RunError(f"--plot: {plot} must end in one of {', '.join(DRAWN)}")
    if not metrics.is_file():
        raise RunError(f"{metrics} does not exist; give a run folder, or its metrics.jsonl")
    stages = load_config(config, overrides or []).config.stages
    steps = read_steps(metrics)
    found = replayed(steps, stages)
    for stage in found:
        print(stage.line())
    if plot:
        from egrc_mega.report.replay import draw_replay

        draw_replay(steps, found, plot)
        print(f"drawn: {plot}")
