"""Checks across fields and against the data files. The model has its own: see `training.preflight`."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from egrc_mega.config.check_loss import loss_problems
from egrc_mega.config.config import Config
from egrc_mega.config.spare import spare_problems
from egrc_mega.errors import ConfigError, DataError, EgrcError
from egrc_mega.methods.method import build_method
from egrc_mega.sections.stage import StageSection

RESERVED = ("base", "model")
"""Points of the evaluation table that are no stages."""


def problems(config: Config, world_size: int, local_world_size: int) -> Iterator[EgrcError]:
    """What cannot run on so many ranks, so many of them on a machine, one error for each."""
    yield from _data_problems(config)
    yield from _layout_problems(config, world_size)
    yield from _gpu_problems(config, local_world_size)
    yield from spare_problems(config, local_world_size)
    yield from _config_problems(config)


def data_files(config: Config) -> dict[str, Path]:
    """Every file of problems, by the field that names it."""
    files = {"data.train": config.data.train, "evaluation.data": config.evaluation.data}
    return files | {f"evaluation.sets.{name}.data": own.data for name, own in config.evaluation.sets.items()}


def _data_problems(config: Config) -> Iterator[EgrcError]:
    if config.run.replay_rollouts is not None:  # which has problems and verdicts with it
        if config.evaluation.stop:
            yield ConfigError("evaluation.stop: a replay has no servers that could evaluate; set it to null")
        return
    for name, path in data_files(config).items():
        if not path.is_file():
            yield DataError(f"{name}: {path} {'is a folder; give a file of it' if path.is_dir() else 'does not exist'}")


def _layout_problems(config: Config, world_size: int) -> Iterator[EgrcError]:
    megatron = config.megatron
    layer_size = megatron.tensor_model_parallel_size * megatron.pipeline_model_parallel_size
    model_size = layer_size * megatron.context_parallel_size
    experts_size = layer_size * megatron.expert_model_parallel_size
    if world_size % model_size:
        yield ConfigError(
            f"--nproc-per-node: {world_size} is no multiple of tensor x pipeline x context parallel size {model_size}"
        )
    elif world_size % experts_size:
        yield ConfigError(
            f"megatron.expert_model_parallel_size: {world_size} processes are no multiple of tensor x pipeline x "
            f"expert parallel size {experts_size}"
        )
    yield from _optional_parts_problems(config)
    yield from megatron_problems(config)


def megatron_problems(config: Config) -> Iterator[EgrcError]:
    """Contradictions of the section `megatron`, in itself and with the stages, on whatever machine."""
    megatron = config.megatron
    if megatron.sequence_parallel and megatron.tensor_model_parallel_size == 1:
        yield ConfigError("megatron.sequence_parallel: true, but tensor_model_parallel_size is 1; set it to false")
    is_full, how = megatron.recompute_granularity == "full", (megatron.recompute_method, megatron.recompute_num_layers)
    if is_full and None in how:
        yield ConfigError(
            "megatron.recompute_granularity: full needs recompute_method and recompute_num_layers; "
            "uniform and 1 save the most memory"
        )
    if not is_full and how != (None, None):
        yield ConfigError(
            "megatron.recompute_method, recompute_num_layers: only for recompute_granularity full; leave them out"
        )
    for stage in config.stages:
        yield from loss_problems(stage, megatron.context_parallel_size)


def _optional_parts_problems(config: Config) -> Iterator[EgrcError]:
    megatron = config.megatron
    has_engine = importlib.util.find_spec("transformer_engine") is not None
    if megatron.transformer_impl == "transformer_engine" and not has_engine:
        yield ConfigError(
            "megatron.transformer_impl: transformer_engine is not installed; install it or set the field to auto"
        )
    if megatron.use_precision_aware_optimizer and not (has_engine and megatron.use_distributed_optimizer):
        yield ConfigError(
            "megatron.use_precision_aware_optimizer: true needs transformer_engine, whose FusedAdam does it, and "
            "use_distributed_optimizer; install and set them, or set it to false"
        )
    types = {megatron.exp_avg_dtype, megatron.exp_avg_sq_dtype}
    if types != {"fp32"} and not megatron.use_precision_aware_optimizer:
        yield ConfigError(
            f"megatron.exp_avg_dtype, exp_avg_sq_dtype: {sorted(types)} need use_precision_aware_optimizer; "
            f"set it to true, or both to fp32"
        )


def server_problems(config: Config) -> Iterator[EgrcError]:
    """Of servers that are to be started or used."""
    rollout = config.rollout
    is_external = rollout.server == "external"
    if is_external and not (rollout.urls or rollout.hosts_file or rollout.announce_dir):
        yield ConfigError(
            "rollout.urls: empty, but rollout.server is external; give the servers' base URLs, or hosts_file, or "
            "announce_dir"
        )
    yield from colocation_problems(config)
    num_gpus = rollout.num_servers * rollout.tensor_parallel_size
    if rollout.gpus and len(set(rollout.gpus)) != num_gpus:
        yield ConfigError(
            f"rollout.gpus: {list(rollout.gpus)}, but rollout.num_servers x tensor_parallel_size need {num_gpus} "
            f"different ones; give as many, or none to count from 0"
        )
    if any(argument.startswith(("--api-key", "--admin-api-key")) for argument in rollout.sglang_args):
        yield ConfigError(
            "rollout.sglang_args: a key stands there, for everybody to read; give it in the environment, as "
            "EGRC_API_KEY or EGRC_ADMIN_API_KEY"
        )
    for name in ("urls", "hosts_file"):
        if getattr(rollout, name) and not is_external:
            yield ConfigError(f"rollout.{name}: given, but rollout.server is {rollout.server}; set it to external")


def colocation_problems(config: Config) -> Iterator[EgrcError]:
    """What servers on the trainer's GPUs cannot do."""
    rollout = config.rollout
    if rollout.colocated and rollout.mode != "sync":
        yield ConfigError(
            f"rollout.mode: {rollout.mode}, but colocated servers cannot sample while the policy trains; set it to "
            f"sync, or rollout.colocated to false"
        )
    if rollout.colocated and rollout.server == "embedded":
        yield ConfigError(
            "rollout.colocated: true, but embedded servers have no GPU memory to free; take sglang, or set it to false"
        )
    if rollout.colocated and config.sync.cache == "keep":
        yield ConfigError(
            "sync.cache: keep, but colocated servers free their cache while the policy trains; set it to recompute"
        )


def _gpu_problems(config: Config, local_world_size: int) -> Iterator[EgrcError]:
    """Of servers on GPUs beside the trainer's ranks, which have the first ones of a machine."""
    rollout = config.rollout
    if rollout.device != "cuda":
        return
    if rollout.colocated and config.sync.transport == "distributed":
        yield ConfigError(
            "sync.transport: distributed, but NCCL takes no two processes on one GPU, and rollout.colocated servers "
            "are on the trainer's; set it to ipc or disk"
        )
    if rollout.server == "sglang" and not rollout.colocated:
        theirs = rollout.gpus or range(rollout.num_servers * rollout.tensor_parallel_size)
        if shared := sorted(set(range(local_world_size)) & set(theirs)):
            yield ConfigError(
                f"rollout.gpus: {shared} are the trainer's, servers would take {list(theirs)}; give them others, or "
                f"set rollout.colocated"
            )


def _staleness_problems(config: Config) -> Iterator[EgrcError]:
    """Whoever trains on tokens of older weights weighs them."""
    rollout = config.rollout
    causes = [f"mode: {rollout.mode}"] if rollout.mode != "sync" else []
    causes += ["partial_rollouts"] if rollout.partial_rollouts else []
    if rollout.allow_uncorrected:
        return
    for stage in config.stages:
        if causes and stage.loss.tis_cap is None:
            yield ConfigError(
                f"stages.{stage.name}.loss.tis_cap: null, but rollout.{causes[0]} trains on tokens of older weights; "
                f"set it, for instance to 2"
            )


def _asynchrony_problems(config: Config) -> Iterator[EgrcError]:
    """What has no meaning where servers sample all the time: nothing is aborted, so nothing is carried half done."""
    rollout = config.rollout
    if rollout.mode != "async":
        return
    if rollout.over_sampling > 1:
        yield ConfigError(
            f"rollout.over_sampling: {rollout.over_sampling:g}, but rollout.mode: async waits for no batch and aborts "
            f"nothing; set it to 1"
        )
    if rollout.partial_rollouts:
        yield ConfigError(
            "rollout.partial_rollouts: true, but rollout.mode: async aborts nothing that could go on; set it to false"
        )


def _stage_problems(config: Config) -> Iterator[EgrcError]:
    """Names, and what each method says of its own fields."""
    names = [stage.name for stage in config.stages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ConfigError(f"stages: {names.count(name)} stages are called {name}; give each a `label` of its own")
    for stage in config.stages:
        if stage.name in RESERVED:
            yield ConfigError(f"stages.{stage.name}.label: {stage.name} names another row of the table; take another")
        if stage.rollout.top_p < 1 and stage.rollout.top_k is None:
            yield ConfigError(
                f"stages.{stage.name}.rollout.top_p: {stage.rollout.top_p:g}, but servers name what a token was drawn "
                f"from only where it is bounded; set stages.{stage.name}.rollout.top_k, for instance to 256, or top_p "
                f"to 1 (evaluation.top_p is free)"
            )
        method = build_method(stage)
        for problem in method.problems():
            yield ConfigError(f"stages.{stage.name}.{problem}")
        for fact in sorted(method.facts - set(config.data.facts)):
            yield ConfigError(
                f"data.facts: {list(config.data.facts)} lacks {fact!r}, which the method of stage {stage.name} needs; "
                f"add the column to the data and its name to data.facts"
            )
        budget = config.policy.max_tokens_per_micro_batch
        if method.longest >= budget:
            yield ConfigError(
                f"policy.max_tokens_per_micro_batch: {budget} cannot hold a prompt and the {method.longest} "
                f"tokens of stage {stage.name}; raise it"
            )
        yield from _update_problems(config, stage)


def _update_problems(config: Config, stage: StageSection) -> Iterator[EgrcError]:
    per_rollout = stage.optim.num_updates_per_rollout
    updates = stage.steps * per_rollout
    if stage.optim.warmup_updates >= updates:
        yield ConfigError(
            f"stages.{stage.name}.optim.warmup_updates: {stage.optim.warmup_updates}, but the stage has {updates} "
            f"updates; it must be fewer"
        )
    if per_rollout > config.rollout.prompts_per_step:
        yield ConfigError(
            f"stages.{stage.name}.optim.num_updates_per_rollout: {per_rollout} updates "
            f"need as many groups, rollout.prompts_per_step is {config.rollout.prompts_per_step}"
        )
    if stage.plateau and stage.plateau.min_steps > stage.steps:
        yield ConfigError(
            f"stages.{stage.name}.plateau.min_steps: {stage.plateau.min_steps}, but the stage has {stage.steps} steps "
            f"at most; lower it or raise stages.{stage.name}.steps"
        )


def _evaluation_problems(config: Config) -> Iterator[EgrcError]:
    """Of the best checkpoint and the stop rule."""
    section, best, stop = config.evaluation, config.evaluation.best, config.evaluation.stop
    if stop is not None and best is None:
        yield ConfigError("evaluation.stop: given, but no metric to judge by; set evaluation.best")
    if stop is not None and stop.patience is None and stop.target is None:
        yield ConfigError("evaluation.stop: neither patience nor target, so it stops nothing; give one of them")
    if best is None:
        return
    if best.set and best.set not in section.sets:
        yield ConfigError(f"evaluation.best.set: there is no set {best.set!r}; there are {sorted(section.sets)}")
        return
    own = section.sets[best.set] if best.set else section
    temperatures = section.temperatures if own.temperatures is None else own.temperatures
    if not temperatures or best.temperature not in (None, *temperatures):
        yield ConfigError(f"evaluation.best.temperature: {best.temperature} is none of the set's {list(temperatures)}")
    k = int(best.metric.removeprefix("pass@")) if best.metric.startswith("pass@") else 2
    if k < 2 or k & (k - 1) or (k > own.n and best.metric.startswith("pass@")):
        yield ConfigError(
            f"evaluation.best.metric: {best.metric} needs a power of two from 2 to the set's n = {own.n}; take "
            f"accuracy, or raise n"
        )


def _config_problems(config: Config) -> Iterator[EgrcError]:
    yield from _evaluation_problems(config)
    yield from server_problems(config)
    yield from _staleness_problems(config)
    yield from _asynchrony_problems(config)
    yield from _stage_problems(config)
    if config.sync.transport == "ipc" and config.rollout.server != "sglang":
        yield ConfigError(
            f"sync.transport: ipc needs servers of SGLang that the run starts, rollout.server is "
            f"{config.rollout.server}; set it to sglang, or take disk or distributed"
        )
    longest_s = config.rollout.request_timeout_s * config.rollout.max_attempts
    if config.run.lead_timeout_s <= longest_s:
        yield ConfigError(
            f"run.lead_timeout_s: {config.run.lead_timeout_s:g}, but one request may take rollout.request_timeout_s x "
            f"max_attempts = {longest_s:g} s; raise it"
        )
