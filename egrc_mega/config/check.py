"""Checks across fields and against the files, all at once, before any process starts."""

import json
from collections.abc import Iterator
from typing import Any

from egrc_mega.config.schema import Config
from egrc_mega.errors import ConfigError, DataError, EgrcError, ModelError

ARCHITECTURES = ("Qwen2ForCausalLM",)


def check(config: Config, world_size: int) -> None:
    """Refuse what cannot run.

    Raises:
        EgrcError: of the class of the first problem, with one line for each.
    """
    problems = [*_data_problems(config), *_model_problems(config), *_config_problems(config, world_size)]
    if problems:
        raise type(problems[0])("\n".join(map(str, problems)))


def _data_problems(config: Config) -> Iterator[EgrcError]:
    for name, path in (("data.train", config.data.train), ("evaluation.data", config.evaluation.data)):
        if not path.is_file():
            yield DataError(f"{name}: {path} does not exist")


def _model_problems(config: Config) -> Iterator[EgrcError]:
    path = config.model.path
    if not path.is_dir():
        yield ModelError(f"model.path: {path} is not a folder; give a local Hugging Face model folder")
        return
    try:
        hf = json.loads((path / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        yield ModelError(f"model.path: {path / 'config.json'} cannot be read: {error}")
        return
    names = hf.get("architectures") or []
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        yield ModelError(f"model.path: {path} holds {names}, known architectures are {list(ARCHITECTURES)}")
        return
    yield from _layout_problems(config, hf)


def _layout_problems(config: Config, hf: dict[str, Any]) -> Iterator[EgrcError]:
    tensor = config.megatron.tensor_model_parallel_size
    pipeline = config.megatron.pipeline_model_parallel_size
    heads, groups, layers = hf["num_attention_heads"], hf["num_key_value_heads"], hf["num_hidden_layers"]
    if heads % tensor:
        yield ConfigError(f"megatron.tensor_model_parallel_size: {tensor} does not divide the {heads} attention heads")
    elif groups % tensor:
        yield ConfigError(f"megatron.tensor_model_parallel_size: {tensor} does not divide the {groups} query groups")
    if layers % pipeline:
        yield ConfigError(f"megatron.pipeline_model_parallel_size: {pipeline} does not divide the {layers} layers")


def _config_problems(config: Config, world_size: int) -> Iterator[EgrcError]:
    model_size = config.megatron.tensor_model_parallel_size * config.megatron.pipeline_model_parallel_size
    if world_size % model_size:
        yield ConfigError(
            f"--nproc-per-node: {world_size} is no multiple of tensor x pipeline parallel size {model_size}"
        )
    names = [stage.name for stage in config.stages]
    if len(set(names)) < len(names):
        yield ConfigError(f"stages: {names} names a stage twice; each may stand once")
    if config.rollout.server == "external" and not config.rollout.urls:
        yield ConfigError("rollout.urls: empty, but rollout.server is external; give the servers' base URLs")
    if config.rollout.server == "embedded" and config.rollout.urls:
        yield ConfigError("rollout.urls: given, but rollout.server is embedded; set rollout.server=external")
    budget = config.policy.max_tokens_per_micro_batch
    for stage in config.stages:
        if stage.max_new_tokens >= budget:
            yield ConfigError(
                f"policy.max_tokens_per_micro_batch: {budget} cannot hold a prompt and the {stage.max_new_tokens} "
                f"tokens of stage {stage.name}; raise it"
            )
        if stage.optim.num_updates_per_rollout > config.rollout.prompts_per_step:
            yield ConfigError(
                f"stages.{stage.name}.optim.num_updates_per_rollout: {stage.optim.num_updates_per_rollout} updates "
                f"need as many groups, rollout.prompts_per_step is {config.rollout.prompts_per_step}"
            )
