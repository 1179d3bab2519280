"""Parallel layouts: which are possible for an architecture, and what each rank of one holds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

from egrc_mega.convert.family import Architecture, Entry
from egrc_mega.convert.shapes import padded_shape, split_dimension


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Sizes of the parallel dimensions that decide where a weight lies; names as in megatron-core."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    expert_model_parallel_size: int = 1
    num_layers_in_first_pipeline_stage: int | None = None
    num_layers_in_last_pipeline_stage: int | None = None
    virtual_pipeline_model_parallel_size: int | None = None

    @classmethod
    def of(cls, section: Any) -> Self:
        """The layout of anything that has these fields, such as the configuration's `megatron` section."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})


def layout_problems(architecture: Architecture, layout: ParallelLayout) -> Iterator[str]:
    """Why megatron-core would refuse the layout: a line for each reason, naming the field."""
    tensor = layout.tensor_model_parallel_size
    heads, groups = architecture.num_heads, architecture.num_query_groups
    for name, size in (
        ("attention heads", heads),
        ("rows of query, key and value", (heads + 2 * groups) * architecture.head_dim),
        ("rows of the feed-forward layer", 0 if architecture.num_experts else architecture.ffn_size),
        ("rows of an expert's feed-forward layer", architecture.expert_ffn_size),
    ):  # fmt: skip
        if size % tensor:
            yield f"tensor_model_parallel_size: {tensor} does not divide the {size} {name}"
    if groups % tensor and tensor % groups:
        yield f"tensor_model_parallel_size: {tensor} is neither a divisor nor a multiple of the {groups} query groups"
    expert, experts = layout.expert_model_parallel_size, architecture.num_experts
    if expert > 1 and (not experts or experts % expert):
        yield f"expert_model_parallel_size: {expert} does not divide the {experts} experts (0: a dense model)"
    yield from _pipeline_problems(architecture.num_layers, layout)


def _pipeline_problems(num_layers: int, layout: ParallelLayout) -> Iterator[str]:
    pipeline = layout.pipeline_model_parallel_size
    first, last = layout.num_layers_in_first_pipeline_stage, layout.num_layers_in_last_pipeline_stage
    given = [size for size in (first, last) if size is not None]
    if layout.virtual_pipeline_model_parallel_size is not None:
        yield from _virtual_problems(num_layers, layout, given)
    if given and pipeline <= 1:
        yield "num_layers_in_first/last_pipeline_stage: given, but pipeline_model_parallel_size is 1"
        return
    stages, layers = pipeline - len(given), num_layers - sum(given)
    if pipeline > num_layers:
        yield f"pipeline_model_parallel_size: {pipeline} stages, but only {num_layers} layers"
    elif stages == 0 and layers:
        yield f"num_layers_in_first/last_pipeline_stage: {given} of {num_layers} layers, no stage is left for {layers}"
    elif stages and (layers < stages or layers % stages):
        yield (
            f"pipeline_model_parallel_size: {stages} stages cannot share {layers} layers evenly; "
            f"set num_layers_in_first_pipeline_stage or num_layers_in_last_pipeline_stage"
        )


def _virtual_problems(num_layers: int, layout: ParallelLayout, given: list[int]) -> Iterator[str]:
    pipeline, virtual = layout.pipeline_model_parallel_size, layout.virtual_pipeline_model_parallel_size or 1
    name = "virtual_pipeline_model_parallel_size"
    if pipeline < 3:
        yield (
            f"{name}: {virtual} needs pipeline_model_parallel_size 3 or more, not {pipeline}: with two stages both "
            f"neighbours are the same rank and their messages would be mixed up; leave it out"
        )
    if given:
        yield f"{name}: {virtual} shares layers evenly; leave out num_layers_in_first/last_pipeline_stage"
    elif num_layers % (pipeline * virtual):
        yield f"{name}: {pipeline} stages x {virtual} pieces cannot share {num_layers} layers evenly"


def stage_layers(num_layers: int, layout: ParallelLayout) -> list[tuple[range, ...]]:
    """The layers of each pipeline stage, of a layout without problems: one range for each piece of a stage."""
    pieces = layout.virtual_pipeline_model_parallel_size
    if pieces is None:
        return [(layers,) for layers in _whole_stages(num_layers, layout)]
    pipeline = layout.pipeline_model_parallel_size
    share = num_layers // (pipeline * pieces)
    starts = [[(piece * pipeline + stage) * share for piece in range(pieces)] for stage in range(pipeline)]
    return [tuple(range(start, start + share) for start in stage) for stage in starts]


def layers_text(pieces: tuple[range, ...]) -> str:
    """The layers of a stage for people: "layers 0 to 3 and 8 to 11"."""
    return "layers " + " and ".join(f"{piece.start} to {piece.stop - 1}" for piece in pieces)


def _whole_stages(num_layers: int, layout: ParallelLayout) -> list[range]:
    pipeline = layout.pipeline_model_parallel_size
    sizes: list[int | None] = [None] * pipeline
    if layout.num_layers_in_first_pipeline_stage is not None:
        sizes[0] = layout.num_layers_in_first_pipeline_stage
    if layout.num_layers_in_last_pipeline_stage is not None:
        sizes[-1] = layout.num_layers_in_last_pipeline_stage
    rest = num_layers - sum(size or 0 for size in sizes)
    share = rest // max(1, sizes.count(None))
    stages, start = [], 0
    for size in sizes:
        stages.append(range(start, start + (share if size is None else size)))
        start = stages[-1].stop
    return stages


def is_on_stage(entry: Entry, stage: int, stages: list[tuple[range, ...]], *, tied: bool) -> bool:
    """True when a pipeline stage holds the parameter: layers by number, the ends at the ends."""
    if entry.index:
        return any(entry.index[0] in layers for layers in stages[stage])
    is_last = stage == len(stages) - 1
    if entry.name.startswith("embedding."):
        # a tied output layer is a second copy of the embedding
        return stage == 0 or (tied and is_last)
    return is_last


def parameters_of_rank(architecture: Architecture, layout: ParallelLayout, stage: int) -> int:
    """Number of parameters on one rank of a pipeline stage, vocabulary padding included."""
    tensor, expert = layout.tensor_model_parallel_size, layout.expert_model_parallel_size
    stages = stage_layers(architecture.num_layers, layout)
    total = 0
    for entry in architecture.entries():
        if not is_on_stage(entry, stage, stages, tied=architecture.tied):
            continue
        size = math.prod(rank_shape(entry, architecture, tensor))
        total += size if not entry.is_expert else size if entry.index[1] < architecture.num_experts // expert else 0
    return total


def rank_shape(entry: Entry, architecture: Architecture, tensor_parallel_size: int) -> tuple[int, ...]:
    """Shape of one tensor-parallel shard."""
    shape, dimension = list(padded_shape(entry, architecture, tensor_parallel_size)), split_dimension(entry)
    if dimension is not None:
        shape[dimension] //= tensor_parallel_size
    return tuple(shape)
