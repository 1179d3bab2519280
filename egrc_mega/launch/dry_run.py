"""`egrc train --dry-run`: what a run would be, and each node's command. Starts and writes nothing."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.config.spare import spare_servers
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.parallel import ParallelLayout, layers_text, parameters_of_rank, stage_layers
from egrc_mega.convert.weight_files import has_weights
from egrc_mega.data.census import census
from egrc_mega.data.tokenizer import has_tokenizer
from egrc_mega.errors import ConfigError
from egrc_mega.evaluation.sets import evaluation_sets, training_profile
from egrc_mega.launch.notes import notes
from egrc_mega.methods.method import build_method
from egrc_mega.observe.rollouts import in_words
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.training.asks import prove_asks
from egrc_mega.training.lengths import length_problems
from egrc_mega.training.preflight import preflight
from egrc_mega.training.serving import open_renderer

SCRIPT = Path(__file__).parents[2] / "scripts/launch/torchrun_7b.sh"
"""Only in a repository: an installed package has none."""


def dry_run(config_files: Sequence[Path], overrides: Sequence[str], *, num_nodes: int, num_processes: int) -> str:
    """The page of a dry run.

    Raises:
        EgrcError: the run could not start: every problem of configuration, files and layout, at once.
    """
    config = load_config(config_files, list(overrides)).config
    world_size = num_nodes * num_processes
    preflight(config, world_size, num_processes)
    architecture = read_architecture(config.model.path)
    data_lines = list(_data_lines(config, architecture.model_fields["max_sequence_length"]))
    run_lines = [*_run_lines(config), *notes(config, architecture)]
    lines = [*run_lines, "", *data_lines, "", *_layout_lines(config, architecture, world_size)]
    if config.rollout.device == "cuda":
        files = shlex.join(map(str, config_files))
        lines.append(f"more     activations, the servers' cache, times: egrc plan {files} --gpus {world_size}")
    lines.append("")
    return "\n".join([*lines, *_commands(config_files, overrides, num_nodes, num_processes)])


def _data_lines(config: Config, positions: int) -> Iterator[str]:
    """The data files row by row, and what the methods ask of their problems."""
    renderer = open_renderer(config) if has_tokenizer(config.model.path) else None
    training = census(config.data.train, config.data, renderer, profile=training_profile(config))
    files = {"data.train": training} | {
        each.field: census(each.data.train, each.data, renderer, profile=each.profile)
        for each in evaluation_sets(config)
    }
    for found in files.values():
        found.refuse_bad()
    if renderer:
        prove_asks(config, renderer, training.reading.good)
        _refuse_long_prompts(config, {name: max(found.lengths) for name, found in files.items()}, positions)
    for name, found in files.items():
        yield name
        yield from (f"  {line}" for line in found.lines())


def _refuse_long_prompts(config: Config, longest_prompts: Mapping[str, int], positions: int) -> None:
    found = [str(problem) for problem in length_problems(config, positions, longest_prompts)]
    if found:
        raise ConfigError("\n".join(found))
    longest_prompt = longest_prompts["data.train"]
    longest = max(build_method(stage).longest for stage in config.stages)
    budget = config.policy.max_tokens_per_micro_batch
    if longest_prompt + longest > budget:
        raise ConfigError(
            f"policy.max_tokens_per_micro_batch: {budget} cannot hold the longest prompt of {longest_prompt} tokens "
            f"and a response of {longest}; raise it"
        )


def _run_lines(config: Config) -> Iterator[str]:
    path = config.model.path
    yield f"model    {path}{'' if has_weights(path) else ' (no weights there yet)'}"
    yield f"data     {config.data.train}"
    yield f"run      {config.run.dir}, seed {config.run.seed}"
    yield f"servers  {_servers(config.rollout)}"
    if spare := config.evaluation.spare:
        theirs = spare_servers(config.rollout, spare)
        on = f", GPUs {in_words(sorted(theirs.gpus))}" if theirs.server == "sglang" and theirs.device == "cuda" else ""
        yield f"spare    {_servers(theirs)}{on}: evaluate beside training, at most {spare.max_pending} points awaited"
    for stage in config.stages:
        responses = config.rollout.prompts_per_step * stage.rollout.n
        yield (
            f"stage    {stage.name}: {'at most ' if stage.plateau else ''}{stage.steps} steps of "
            f"{config.rollout.prompts_per_step} prompts x {stage.rollout.n} = {responses} responses of at most "
            f"{build_method(stage).longest} tokens"
        )


def _servers(section: RolloutSection) -> str:
    if section.server != "external":
        shared = f", tensor {section.tensor_parallel_size}" if section.tensor_parallel_size > 1 else ""
        return f"{section.num_servers} {section.server} on {section.device}{shared}"
    places = [*section.urls, *(str(place) for place in (section.hosts_file, section.announce_dir) if place)]
    return f"external: {', '.join(places)}"


def _layout_lines(config: Config, architecture: Architecture, world_size: int) -> Iterator[str]:
    section = config.megatron
    layout = ParallelLayout.of(section)
    tensor, pipeline = layout.tensor_model_parallel_size, layout.pipeline_model_parallel_size
    context = section.context_parallel_size
    data = world_size // (tensor * pipeline * context)
    shared = f" x context {context}" if context > 1 else ""
    expert = f", expert parallel {layout.expert_model_parallel_size}" if architecture.num_experts else ""
    yield f"layout   {world_size} processes = tensor {tensor} x pipeline {pipeline}{shared} x data {data}{expert}"
    for stage, pieces in enumerate(stage_layers(architecture.num_layers, layout)):
        count = parameters_of_rank(architecture, layout, stage)
        sizes = _bytes_per_parameter(section, data * context)
        weights, gradients, optimizer = (count * size / 2**30 for size in sizes)
        on_device = weights + gradients + (0 if config.policy.offload_optimizer else optimizer)
        yield (
            f"rank     pipeline stage {stage}, {layers_text(pieces)}: {count:,} parameters; "
            f"{weights:.1f} GiB weights + {gradients:.1f} gradients + {optimizer:.1f} optimizer "
            f"{'(on the host) ' if config.policy.offload_optimizer else ''}= {on_device:.1f} GiB before activations"
        )


def _bytes_per_parameter(section: MegatronSection, replicas: int) -> tuple[float, float, float]:
    """Weights, gradient buffer (float32), optimizer: two moments, and float32 masters of bf16 weights."""
    moments = sum(4 if dtype == "fp32" else 2 for dtype in (section.exp_avg_dtype, section.exp_avg_sq_dtype))
    shards = replicas if section.use_distributed_optimizer else 1
    return (2.0, 4.0, (4 + moments) / shards) if section.bf16 else (4.0, 4.0, moments / shards)


def _commands(
    config_files: Sequence[Path], overrides: Sequence[str], num_nodes: int, num_processes: int
) -> Iterator[str]:
    arguments = shlex.join([part for override in overrides for part in ("--set", override)])
    for node in range(num_nodes):
        if SCRIPT.is_file():
            config = shlex.quote(" ".join(map(str, config_files)))
            variables = f"NNODES={num_nodes} NODE_RANK={node} NPROC_PER_NODE={num_processes} CONFIG={config}"
            address = "MASTER_ADDR=<address of node 0> " if num_nodes > 1 else ""
            command = f"{address}{variables} bash {_script()}"
        else:
            files = shlex.join([part for file in config_files for part in ("--config", str(file))])
            address = (
                f" --nnodes {num_nodes} --node-rank {node} --master-addr <address of node 0>" if num_nodes > 1 else ""
            )
            command = f"egrc train {files} --supervise --nproc-per-node {num_processes}{address}"
        yield f"node {node}: {command} {arguments}".rstrip()


def _script() -> str:
    """From where this command was given, like the paths in its arguments."""
    here = Path.cwd()
    return shlex.quote(str(SCRIPT.relative_to(here) if SCRIPT.is_relative_to(here) else SCRIPT))
