"""Bytes of weights, gradients and optimizer of every rank, as megatron-core allocates them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from egrc_mega.convert.family import Architecture, Entry
from egrc_mega.convert.parallel import ParallelLayout, rank_shape, stage_layers
from egrc_mega.plan.buffers import Buffer, Parameter, bucket_size, lay_out
from egrc_mega.sections.policy import MegatronSection

ORDER = (
    "linear_qkv.layer_norm_weight",
    "linear_proj.",
    "linear_qkv.weight",
    "linear_qkv.bias",
    "q_layernorm.",
    "k_layernorm.",
    "linear_fc1.layer_norm_weight",
    "pre_mlp_layernorm.",
    "router.",
    "linear_fc1.weight",
    "linear_fc2.weight",
)
"""Parts of a layer by names of `convert.families`, in the order in which megatron-core's local layers register them.
Transformer Engine's layers have another order, which moves the gaps of alignment by some kilobytes at most."""
GRADIENT_BYTES = 4
"""Gradients are added up in float32 whatever the weights are (`policy.optimizer.wrap_model`)."""
MOMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of one rank that last from step to step."""

    parameters: int
    """Elements, padding of the vocabulary included."""
    weights: int
    gradients: int
    optimizer: int
    """Adam's moments, and float32 masters of bf16 weights. Step counts are left out: four bytes a parameter at most."""


@dataclass(frozen=True, slots=True)
class World:
    """How many ranks there are, and what each shares with whom."""

    num_ranks: int
    section: MegatronSection

    @property
    def replicas(self) -> int:
        """Ranks with the same weights: data- and context-parallel ones, which share the optimizer's state."""
        section = self.section
        return self.num_ranks // (section.tensor_model_parallel_size * section.pipeline_model_parallel_size)

    @property
    def data(self) -> int:
        """Data-parallel ranks: each has micro-batches of its own."""
        return self.replicas // self.section.context_parallel_size

    @property
    def expert_replicas(self) -> int:
        """Ranks with the same experts."""
        return self.replicas // self.section.expert_model_parallel_size


def states_of_rank(
    architecture: Architecture, world: World, stage: int, replica: int | None = None, *, overlaps: bool | None = None
) -> States:
    """What a rank holds.

    Args:
        stage: pipeline stage.
        replica: place among the ranks with the same weights; None: the one with the largest optimizer.
        overlaps: gradients are reduced in buckets; None: as the policy does on GPUs.
    """
    section, is_sharded = world.section, world.section.use_distributed_optimizer
    buffers = list(buffers_of_stage(architecture, world, stage, overlaps=overlaps))
    parameters = sum(buffer.parameters for buffer in buffers)
    # the distributed optimizer gathers weights into buffers, gaps included
    size = sum(buffer.size for buffer in buffers)
    owned = parameters
    if is_sharded:
        wanted = range(world.replicas) if replica is None else [replica]
        owned = max(sum(buffer.owned[each % buffer.num_replicas] for buffer in buffers) for each in wanted)
    return States(
        parameters,
        (2 if section.bf16 else 4) * (size if is_sharded else parameters),
        GRADIENT_BYTES * size,
        optimizer_bytes(section) * owned,
    )


def optimizer_bytes(section: MegatronSection) -> int:
    """For each parameter: two moments, and a float32 master of a bf16 weight."""
    moments = MOMENT_BYTES[section.exp_avg_dtype] + MOMENT_BYTES[section.exp_avg_sq_dtype]
    return moments + (4 if section.bf16 else 0)


def reduces_in_buckets(architecture: Architecture, world: World) -> bool:
    """Whether gradients are added up while backward goes on, as `policy.overlap.choose_overlap` decides on NCCL."""
    if world.section.overlap_grad_reduce is not None:
        return world.section.overlap_grad_reduce
    return world.replicas > 1 and not architecture.num_experts


def buffers_of_stage(
    architecture: Architecture, world: World, stage: int, *, overlaps: bool | None = None
) -> Iterator[Buffer]:
    """The buffers of a rank of that pipeline stage: for each piece of it, of dense parameters and of experts."""
    if overlaps is None:
        overlaps = reduces_in_buckets(architecture, world)
    for piece, parameters in enumerate(stage_parameters(architecture, world.section, stage)):
        in_buckets = overlaps and stage == 0 and piece == 0
        for is_expert, replicas in ((False, world.replicas), (True, world.expert_replicas)):
            own = [parameter for parameter in parameters if parameter.is_expert == is_expert]
            if own:
                # megatron takes the size for experts' buckets from the dense ranks, too
                most = bucket_size(world.data, in_buckets=in_buckets)
                yield lay_out(own, replicas, most, is_sharded=world.section.use_distributed_optimizer)


def stage_parameters(architecture: Architecture, section: MegatronSection, stage: int) -> list[list[Parameter]]:
    """The parameters of a rank of that pipeline stage in the module's order, for each of the stage's pieces."""
    layout = ParallelLayout.of(section)
    stages = stage_layers(architecture.num_layers, layout)
    embedding, layer, norm, head = _parts(architecture, layout)
    pieces = [layer * len(layers) for layers in stages[stage]]
    is_last = stage == len(stages) - 1
    if stage == 0:
        # with several stages a tied embedding lies on both ends
        pieces[0] = [replace(embedding, is_shared=architecture.tied and not is_last), *pieces[0]]
    if is_last:
        own_head = replace(embedding, is_shared=True) if architecture.tied and stage > 0 else head
        pieces[-1] = [*pieces[-1], norm, *([own_head] if own_head else [])]
    return pieces


def _parts(
    architecture: Architecture, layout: ParallelLayout
) -> tuple[Parameter, list[Parameter], Parameter, Parameter | None]:
    """Embedding, the parameters of any layer in order, the last norm, and the output layer where it is not tied."""
    experts = architecture.num_experts // layout.expert_model_parallel_size if architecture.num_experts else 0
    ends: dict[str, Parameter] = {}
    layer: list[tuple[tuple[int, ...], Parameter]] = []
    for entry in replace(architecture, num_layers=1).entries():
        size = math.prod(rank_shape(entry, architecture, layout.tensor_model_parallel_size))
        parameter = Parameter(size, entry.is_expert)
        if not entry.index:
            ends[entry.name] = parameter
        elif not entry.is_expert or entry.index[1] < experts:
            layer.append((_order(entry), parameter))
    in_order = [parameter for _key, parameter in sorted(layer, key=lambda pair: pair[0])]
    norm = ends["decoder.final_layernorm.weight"]
    return ends["embedding.word_embeddings.weight"], in_order, norm, ends.get("output_layer.weight")


def _order(entry: Entry) -> tuple[int, int]:
    """Within a layer; experts come last, one after the other, each with both of its matrices."""
    part = next(place for place, name in enumerate(ORDER) if name in entry.name)
    return (entry.index[1] if entry.is_expert else -1, part)
