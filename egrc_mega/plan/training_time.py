"""How long the policy's update takes: products, the pipeline's bubble, and what ranks send each other.

The work of a step is what `policy.flops` counts; recomputation comes on top. Sends that megatron hides behind products
(gradients in buckets, gathered weights) count only as far as they are longer than what hides them.
"""

from dataclasses import dataclass

from egrc_mega.plan.constants import Constants
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.states import GRADIENT_BYTES, World, optimizer_bytes
from egrc_mega.policy.flops import FORWARD_AND_BACKWARD


@dataclass(frozen=True, slots=True)
class Work:
    """What a step trains on."""

    num_responses: int
    lengths: Lengths
    prompt_tokens: int
    num_updates: int = 1
    num_scorings: int = 0
    """Forwards beside those of the updates: old log-probs, the reference model."""

    @property
    def num_tokens(self) -> float:
        """Prompts and responses together."""
        return self.num_responses * (self.prompt_tokens + self.lengths.mean)


@dataclass(frozen=True, slots=True)
class TrainingTime:
    """Seconds of the policy's part of a step."""

    products: float
    bubble: float
    tensor: float
    """Sums over tensor- and gathers over context-parallel ranks, and sends between pipeline stages."""
    data: float
    """Gradients and weights over data-parallel ranks, as far as nothing hides them."""
    optimizer: float
    num_micro_batches: int
    """Of one update and data-parallel rank."""
    bubble_share: float
    """Of the time of an update's micro-batches."""
    useful_flops: float
    """Of all ranks, as `policy.flops` counts them: recomputation is none."""

    @property
    def total(self) -> float:
        """All of it, one after the other."""
        return self.products + self.bubble + self.tensor + self.data + self.optimizer


def training_time(
    model: Model,
    world: World,
    gpu: Gpu,
    work: Work,
    budget: int,
    constants: Constants,
    *,
    offloads_optimizer: bool = False,
) -> TrainingTime:
    """Seconds of scoring and updating on one batch.

    Args:
        budget: tokens of a micro-batch.
        offloads_optimizer: its state comes from the host for each update, and goes back.
    """
    forward = _forward_flops(model, work)
    passes = FORWARD_AND_BACKWARD + _recomputed(model, world, work) + work.num_scorings
    section = world.section
    peak = gpu.bf16_flops if section.bf16 else gpu.float32_flops
    rate = peak * constants.flops_share
    # no rank can do less than a whole response, and the longest one is some rank's
    alone = work.num_updates * _longest_flops(model, work) * world.data / world.num_ranks
    products = passes * max(forward / world.num_ranks, alone) / rate
    count = num_micro_batches(world, work, budget)
    bubble_share = bubble(section.pipeline_model_parallel_size, section.virtual_pipeline_model_parallel_size, count)
    moved = _Sends(model, world, gpu, constants)
    tokens = work.num_tokens / world.data
    # backward sends as much as forward, and forward once more where it is recomputed
    rounds = 2 + (section.recompute_granularity == "full") + work.num_scorings
    tensor = rounds * tokens * moved.seconds_per_token()
    hidden = products / passes * 2 / (count * work.num_updates)
    data = work.num_updates * max(0.0, moved.seconds_of_gradients() - hidden)
    return TrainingTime(
        products=products,
        bubble=products * bubble_share / (1 - bubble_share),
        tensor=tensor,
        data=data,
        optimizer=work.num_updates * moved.seconds_of_step(offloads_optimizer=offloads_optimizer),
        num_micro_batches=count,
        bubble_share=bubble_share,
        useful_flops=forward * (FORWARD_AND_BACKWARD + work.num_scorings),
    )


def num_micro_batches(world: World, work: Work, budget: int) -> int:
    """Of one update on each data-parallel rank, packed full."""
    tokens = work.num_tokens / (work.num_updates * world.data)
    count = max(1, -(-int(tokens) // budget))
    if world.section.virtual_pipeline_model_parallel_size:
        multiple = world.section.pipeline_model_parallel_size
        count += -count % multiple
    return count


def bubble(pipeline: int, virtual: int | None, num_micro_batches: int) -> float:
    """Share of an update in which a pipeline stage waits: (p - 1) / (v m + p - 1) for m micro-batches and v pieces.

    Narayanan et al., arXiv 2104.04473, section 2.2, where it is put as (p - 1) / (v m) of the rest of the time.
    """
    waits = pipeline - 1
    return waits / ((virtual or 1) * num_micro_batches + waits)


def _forward_flops(model: Model, work: Work) -> float:
    flops = model.flops
    mean, prompt = work.lengths.mean, work.prompt_tokens
    square = work.lengths.mean_square + 2 * prompt * mean + prompt**2
    each = (mean + prompt) * flops.per_token + square * flops.per_square + mean * flops.per_row
    return work.num_responses * each


def _longest_flops(model: Model, work: Work) -> float:
    """Forward of the longest response of a batch."""
    longest = float(work.lengths.quantiles(work.num_responses)[-1])
    return model.flops.forward([round(longest) + work.prompt_tokens], round(longest))


def _recomputed(model: Model, world: World, work: Work) -> float:
    """Forwards that recomputation adds: all of it, or attention's part."""
    granularity = world.section.recompute_granularity
    if granularity is None:
        return 0.0
    if granularity == "full":
        return 1.0
    squares = model.flops.per_square * work.lengths.mean_square * work.num_responses
    return squares / _forward_flops(model, work)


class _Sends:
    """Seconds of what ranks send each other."""

    def __init__(self, model: Model, world: World, gpu: Gpu, constants: Constants) -> None:
        self.model, self.world, self.gpu, self.constants = model, world, gpu, constants
        self.architecture = model.architecture
        self.section = world.section

    def _rate(self, reach: int) -> float:
        """Of a group whose ranks lie within so many neighbours."""
        is_near = reach <= self.gpu.gpus_per_node
        rate = self.gpu.link_bytes_per_s if is_near else self.gpu.network_bytes_per_s
        return rate * self.constants.bandwidth_share

    def seconds_per_token(self) -> float:
        """Of one token's forward: two sums a layer over tensor-parallel ranks, keys and values of others with context
        parallelism, a send to the next pipeline stage."""
        section, hidden = self.section, self.architecture.hidden_size
        tensor, context = section.tensor_model_parallel_size, section.context_parallel_size
        pipeline = section.pipeline_model_parallel_size
        width = 2 if section.bf16 else 4
        # layers are shared by the stages, which work at the same time
        layers = self.architecture.num_layers / pipeline
        share = 1 / context
        sums = layers * 4 * width * hidden * (tensor - 1) / tensor * share
        groups = 2 * max(1, self.architecture.num_query_groups // tensor) * self.architecture.head_dim
        gathered = layers * width * groups * (context - 1) / context
        between = width * hidden * share / tensor if pipeline > 1 else 0.0
        near, middle = tensor, tensor * context
        return sums / self._rate(near) + gathered / self._rate(middle) + between / self._rate(self.world.num_ranks)

    def _own_parameters(self) -> float:
        section = self.section
        shared = section.tensor_model_parallel_size * section.pipeline_model_parallel_size
        return self.model.num_parameters / shared

    def seconds_of_gradients(self) -> float:
        """Gradients are added up and weights gathered over the replicas, once an update."""
        replicas = self.world.replicas
        width = GRADIENT_BYTES + (2 if self.section.bf16 else 4)
        moved = self._own_parameters() * width * (replicas - 1) / replicas
        return moved / self._rate(self.world.num_ranks)

    def seconds_of_step(self, *, offloads_optimizer: bool) -> float:
        """The optimizer reads and writes its state, reads gradients and writes weights."""
        sharded = self.world.replicas if self.section.use_distributed_optimizer else 1
        own = self._own_parameters() / sharded
        touched = own * (2 * optimizer_bytes(self.section) + GRADIENT_BYTES + 2)
        seconds = touched / (self.gpu.memory_bytes_per_s * self.constants.bandwidth_share)
        if offloads_optimizer:
            moved = 2 * own * optimizer_bytes(self.section)
            seconds += moved / (self.gpu.host_bytes_per_s * self.constants.bandwidth_share)
        return seconds
