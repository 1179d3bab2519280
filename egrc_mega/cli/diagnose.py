"""`egrc diagnose`: what responses are made of, from their texts alone or with the model that sampled them."""

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    first: Annotated[
        Path, typer.Argument(metavar="[MODEL]", help="Hugging Face folder of the model; without: texts alone.")
    ],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="ROLLOUTS", help="File of responses, rollout file, or folder of a run."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Responses from before the compression, to compare with.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the result: JSON and figures.")] = None,
    step_mark: Annotated[
        str | None, typer.Option("--step-mark", help="Text between two steps of reasoning; without: an empty line.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Configuration of the objectives; without: the run's own.", metavar="FILE"),
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", help="Text after every problem; without: as configured.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Output tokens that the model is asked about.")] = 200_000,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens that the model sees at once.")] = 4096,
    block_gradients: Annotated[
        int, typer.Option(min=0, help="Tokens whose gradient is measured at the last block.")
    ] = 256,
    full_gradients: Annotated[
        int, typer.Option(min=0, help="Tokens whose gradient is measured at all parameters.")
    ] = 64,
) -> None:
    """Count steps, connectors and loops of responses; with their model, entropy and gradients of their tokens."""
    import sys

    from rich.console import Console

    from egrc_mega.diagnosis.diagnosis import diagnose as diagnosed
    from egrc_mega.diagnosis.question import Question, TokenSettings
    from egrc_mega.diagnosis.tables import all_tables
    from egrc_mega.diagnosis.texts import STEP_MARK

    model, rollouts = (first, second) if second else (None, first)
    question = Question(
        rollouts=rollouts,
        model=model,
        base=base,
        out=out,
        step_mark=STEP_MARK if step_mark is None else step_mark,
        config=config,
        instruction=instruction,
        tokens=TokenSettings(
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
            num_block_gradients=block_gradients,
            num_full_gradients=full_gradients,
        ),
    )
    result = diagnosed(question, lambda line: print(f"egrc: {line}", file=sys.stderr))
    console = Console(highlight=False)
    for table in all_tables(result):
        console.print(table)
    if out:
        print(f"written: {out}")
