"""`egrc eval`: measures a model without training it."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFiles, Overrides


def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder to measure.")],
    config: ConfigFiles,
    out: Annotated[Path, typer.Option("--out", help="Folder for evaluation.json; several models may share one.")],
    overrides: Overrides = None,
) -> None:
    """Measure a model's accuracy and length with a run's evaluation section and servers.

    The same weights are measured by the same protocol once; the training data need not be there.
    """
    from egrc_mega.config.load import load_config
    from egrc_mega.training.standalone import evaluate_model

    evaluate_model(model, load_config(config, overrides or []).config, out)
