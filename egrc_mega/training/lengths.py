"""Prompts and responses against the positions that the model was made for, before anything starts."""

from collections.abc import Iterator, Mapping

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError
from egrc_mega.methods.method import build_method

CAP = "the stage's cap (rollout.max_new_tokens, clip_len, or what its method calls it)"
ONE_TOKEN = 1
"""The shortest prompt: what does not fit beside it fits beside none."""


def length_problems(config: Config, positions: int, prompts: Mapping[str, int] | None = None) -> Iterator[ConfigError]:
    """What servers would refuse at the first step of a stage or evaluation, maybe hours from now.

    Args:
        positions: tokens of the longest sequence, `max_position_embeddings` of config.json.
        prompts: tokens of the longest prompt of `data.train`, `evaluation.data` and so on, as far as they are known.
    """
    known = prompts or {}
    for stage in config.stages:
        needed = build_method(stage).longest
        yield from _problem(f"stages.{stage.name}", needed, known.get("data.train"), positions, CAP)
    section = config.evaluation
    yield from _problem("evaluation.max_new_tokens", section.max_new_tokens, known.get("evaluation.data"), positions)
    for name, own in section.sets.items():
        if own.max_new_tokens is not None:
            field = f"evaluation.sets.{name}"
            yield from _problem(f"{field}.max_new_tokens", own.max_new_tokens, known.get(f"{field}.data"), positions)


def _problem(field: str, response: int, prompt: int | None, positions: int, what: str = "it") -> Iterator[ConfigError]:
    if response + (prompt or ONE_TOKEN) <= positions:
        return
    beside = f" and the longest prompt of {prompt}" if prompt else " and a prompt"
    yield ConfigError(
        f"{field}: a response of {response} tokens{beside} do not fit into the model's {positions} positions "
        f"(max_position_embeddings of config.json); lower {what}"
    )
