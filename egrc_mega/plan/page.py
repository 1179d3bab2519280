"""The page of `egrc plan` for people."""

from collections.abc import Iterator

from egrc_mega.convert.parallel import ParallelLayout, layers_text, stage_layers
from egrc_mega.plan.activations import recompute_of
from egrc_mega.plan.gpus import GIB
from egrc_mega.plan.memory import RankMemory
from egrc_mega.plan.plan import Memory, Plan, StagePlan
from egrc_mega.plan.states import World

SAMPLED = {"sync": "", "ahead": " (sampled one ahead)", "async": " (sampled all the time)"}
"""What is said of a step's time, by `rollout.mode`."""


def page(plan: Plan) -> str:
    """All that is known of a plan; an impossible one ends where its reasons begin."""
    lines = [*_head(plan)]
    if plan.memory:
        lines += ["", *_memory(plan, plan.memory), "", *_serving(plan, plan.memory)]
    if plan.stages:
        lines += ["", *_times(plan)]
    return "\n".join(lines)


def _head(plan: Plan) -> Iterator[str]:
    gpu, split = plan.gpu, plan.split
    billions = plan.model.num_parameters / 1e9
    yield f"model    {billions:.2f} billion parameters, sizes of {plan.model.origin}"
    yield (
        f"gpu      {gpu.name}: {gpu.memory_bytes / GIB:.1f} GiB at {gpu.memory_bytes_per_s / 1e12:.2f} TB/s, "
        f"{gpu.bf16_flops / 1e12:.0f} TFLOP/s in bf16, {gpu.gpus_per_node} to a node"
    )
    if split.is_colocated:
        part = "" if split.rollout == split.num_gpus else f", {split.rollout} of them,"
        yield f"split    {split.num_gpus} GPUs train and{part} serve in turn ({split.origin})"
    else:
        yield f"split    {split.num_gpus} GPUs = {split.trainer} train + {split.rollout} serve ({split.origin})"
    if plan.config.rollout.server == "embedded":
        yield "         embedded servers have no GPU: times are those of SGLang's in their place"
    section = plan.config.megatron
    sizes = [f"tensor {section.tensor_model_parallel_size}", f"pipeline {section.pipeline_model_parallel_size}"]
    if section.context_parallel_size > 1:
        sizes.append(f"context {section.context_parallel_size}")
    if plan.model.architecture.num_experts:
        sizes.append(f"(experts {section.expert_model_parallel_size})")
    if plan.memory:
        sizes.append(f"data {World(split.trainer, section).data}")
    yield f"layout   {split.trainer} processes = {' x '.join(sizes)}, recomputing {recompute_of(section)}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _memory(plan: Plan, memory: Memory) -> Iterator[str]:
    budget = plan.config.policy.max_tokens_per_micro_batch
    size = _gib(plan.gpu.memory_bytes)
    yield f"bytes    of a rank of each pipeline stage, in GiB of {size}, {budget} tokens a micro-batch"
    layers = stage_layers(plan.model.architecture.num_layers, ParallelLayout.of(plan.config.megatron))
    columns = ("weights", "gradients", "optimizer", "activations", "working", "head", "sync", "reserved", "peak")
    yield f"  {'stage':<7}" + "".join(f"{name:>13}" for name in columns)
    for rank in memory.ranks:
        yield f"  {rank.stage:<7}" + "".join(f"{cell:>13}" for cell in _cells(rank))
    for rank, pieces in zip(memory.ranks, layers, strict=True):
        states = rank.states
        yield (
            f"  stage {rank.stage}, {layers_text(pieces)}: {states.parameters:,} parameters; {states.weights:,} bytes "
            f"of weights, {states.gradients:,} of gradients, {states.optimizer:,} of optimizer"
        )
    modes = ", ".join(f"{_gib(size)} {mode}" for mode, size in memory.activations(budget).items())
    yield f"  activations of stage 0 by recomputation: {modes}"
    yield f"  largest token budget that fits: {memory.fitting_budget}"
    if memory.colocated_peak is not None:
        yield f"  colocated peak of a GPU: {_gib(memory.colocated_peak)}"


def _cells(rank: RankMemory) -> list[str]:
    states = rank.states
    optimizer = _gib(states.optimizer) + (" host" if rank.optimizer_on_host else "")
    sizes = (rank.activations, rank.working, rank.head, rank.sync, rank.reserved, rank.peak)
    return [_gib(states.weights), _gib(states.gradients), optimizer, *map(_gib, sizes)]


def _serving(plan: Plan, memory: Memory) -> Iterator[str]:
    size, server = plan.config.rollout.tensor_parallel_size, memory.server
    yield (
        f"servers  {plan.split.rollout // size} of {size} GPU{'s' if size > 1 else ''}, each: {_gib(server.weights)} "
        f"GiB of weights, {_gib(max(0.0, server.kv_cache))} GiB for keys and values = {server.kv_tokens:,} tokens at "
        f"{server.kv_bytes_per_token / 1024:.3g} KiB"
    )

    if plan.spare and plan.config.evaluation.spare:
        count = plan.config.evaluation.spare.num_servers
        yield (
            f"spare    {count} of {size} GPU{'s' if size > 1 else ''} beside those {plan.split.num_gpus}, each: "
            f"{_gib(plan.spare.weights)} GiB of weights, {_gib(max(0.0, plan.spare.kv_cache))} GiB for keys and values "
            f"= {plan.spare.kv_tokens:,} tokens"
        )


def _times(plan: Plan) -> Iterator[str]:
    yield "time     of a step in seconds, by phase"
    if plan.model.architecture.num_experts:
        yield "  published steps of mixtures of experts took one to three times as long as this says (docs/plan.md)"
    for stage in plan.stages:
        yield from _stage_lines(plan, stage)
    yield (
        f"recipe   {sum(s.stage.steps for s in plan.stages)} steps and evaluations of {plan.evaluation_hours:.1f} h"
        f"{' beside them' if plan.spare else ''}: {plan.hours:.1f} hours, {plan.gpu_hours:,.0f} GPU hours"
    )


def _stage_lines(plan: Plan, stage: StagePlan) -> Iterator[str]:
    work, time = stage.stage.work, stage.time
    yield (
        f"  {stage.stage.name}: {work.num_responses} responses of {work.lengths.mean:.0f} tokens on average, at most "
        f"{stage.stage.longest}, after prompts of {work.prompt_tokens}"
    )
    training = time.training
    parts = {
        "products": training.products,
        "bubble": training.bubble,
        "tensor, context, pipeline sends": training.tensor,
        "gradients and weights over replicas": training.data,
        "optimizer": training.optimizer,
    }
    rest = f"weights to the servers at least {time.sync:.2f}"
    yield f"    rollout {time.rollout:.1f}, train {training.total:.1f}, {rest}"
    yield "    train = " + " + ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
    mfu = training.useful_flops / (training.total * plan.split.trainer * plan.gpu.bf16_flops)
    yield (
        f"    {work.num_updates} update{'s' if work.num_updates > 1 else ''} of {training.num_micro_batches} "
        f"micro-batches a rank, bubble {100 * training.bubble_share:.1f} %, MFU {100 * mfu:.0f} % while training"
    )
    yield (
        f"    step {time.total:.1f}{SAMPLED[plan.config.rollout.mode]}: {time.tokens_per_s:,.0f} "
        f"tokens/s, {time.tokens_per_s / plan.split.num_gpus:,.0f} a GPU; {stage.stage.steps} steps {stage.hours:.1f} h"
    )
