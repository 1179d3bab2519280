"""`egrc rollouts`: shows what the policy wrote in a step."""

from pathlib import Path
from typing import Annotated

import typer


def rollouts(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    step: Annotated[int | None, typer.Option("--step", help="Step to show, from 1; without: which there are.")] = None,
    group: Annotated[int | None, typer.Option("--group", help="Group of the step to show whole, from 0.")] = None,
) -> None:
    """Show what the policy wrote in a step of training, what it was worth and what it taught."""
    from rich.console import Console

    from egrc_mega.errors import ConfigError
    from egrc_mega.observe import rollout_view as view
    from egrc_mega.observe.rollouts import read_rollouts

    if group is not None and step is None:
        raise ConfigError("--group: given without --step; say of which step")
    if step is None:
        shown = view.steps_view(run)
    else:
        stored = read_rollouts(run, step)
        shown = view.step_view(stored) if group is None else view.group_view(stored, group)
    Console(highlight=False).print(shown)
