"""`egrc credit`: shows what a method pays and teaches for a batch that has been recorded."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.cli.options import ConfigFiles, Overrides


def credit(
    batch: Annotated[Path, typer.Option("--batch", help="A recorded batch (JSON), or a rollout file of a run.")],
    config: ConfigFiles,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Label of the stage; without: the first.")] = None,
    groups: Annotated[str, typer.Option("--groups", help="Which list of groups of the JSON.")] = "groups",
) -> None:
    """Print a method's rewards and advantages for a recorded batch, as JSON: one row a group, one number a sample.

    Of the configuration only the stages, the plugins and the seed are needed. The reward of a sample that was not
    judged is null. Where an advantage differs from token to token the number is the median, and the list stands under
    `token_advantages`.
    """
    import orjson

    from egrc_mega.config.load import load_config
    from egrc_mega.training.recorded_batch import payment, read_batch

    loaded = load_config(config, overrides or [], below=NOT_NEEDED).config
    paid = payment(loaded, read_batch(batch, groups), stage)
    print(orjson.dumps(paid).decode())


NOT_NEEDED = {"run": {"dir": "."}, "model": {"path": "."}, "data": {"train": "."}, "evaluation": {"data": "."}}
"""What a configuration must have that credits do not depend on."""
