"""Proves what the stages' methods ask for, before any server starts: what they render, force and need of a row."""

from collections.abc import Sequence

from egrc_mega.config.config import Config
from egrc_mega.data.render import Renderer
from egrc_mega.errors import ModelError
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.types import Problem


def prove_asks(config: Config, renderer: Renderer, problems: Sequence[Problem]) -> None:
    """Have each stage plan the first problem of its data, and render what it asks.

    Raises:
        EgrcError: a chat template refuses a system text, the tokenizer has no token for a forced one.
    """
    for stage in config.stages:
        method = build_method(stage)
        view = View(step=0, state=method.State(), seed=config.run.seed)
        try:
            for ask in method.plan(problems[0], view):
                renderer.prompt_ids(problems[0], ask)
                renderer.forced_ids(ask)
        except ModelError as error:
            raise ModelError(f"stages.{stage.name}: what its method asks cannot be rendered; {error}") from error
