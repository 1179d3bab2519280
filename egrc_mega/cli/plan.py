"""`egrc plan`: what a run needs and how long it takes, before anything starts."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import Overrides


def plan(
    config: Annotated[
        list[Path], typer.Argument(help="YAML files; see configs/. Later files win.", metavar="CONFIG...")
    ],
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, max=100_000, help="GPUs in all: of the trainer and of the servers.")
    ],
    gpu: Annotated[str, typer.Option("--gpu", help="Their kind, e.g. h100-80g; a wrong name lists all.")] = "h100-80g",
    rollout_gpus: Annotated[
        int | None, typer.Option("--rollout-gpus", min=1, help="How many of them serve; the others train.")
    ] = None,
    mean_tokens: Annotated[
        float | None, typer.Option("--mean-tokens", help="Mean length of responses; without: half of the cap.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", min=0, help="Tokens of a prompt; without: 128.")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Rank layouts and splits between trainer and servers instead.")
    ] = False,
    overrides: Overrides = None,
    in_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what fits and how long it takes, or why it is impossible and what is nearest. Starts and writes nothing."""
    from egrc_mega.launch.plan import Question, show_plan, show_search

    question = Question(config, overrides or [], gpus, gpu, rollout_gpus, mean_tokens, prompt_tokens)
    show = show_search if search else show_plan
    show(question, in_json=in_json)
