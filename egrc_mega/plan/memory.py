"""Bytes on every GPU, by kind and by phase; how many tokens a micro-batch may have; by how much a layout is over."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from egrc_mega.plan.activations import Recompute, kept_bytes, working_bytes
from egrc_mega.plan.gpus import GIB, Gpu
from egrc_mega.plan.head import SHARED_BYTES, affordable, head_bytes
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.serving import ServerMemory
from egrc_mega.plan.states import States, World

RESERVED_BYTES = 3 * GIB
"""CUDA's context, NCCL's buffers and what the allocator cannot use: an assumption, not a measurement."""
ASLEEP_BYTES = 1 * GIB
"""What a colocated server that has freed its memory still holds: its own CUDA context and graphs. An assumption."""
BUDGET_STEP = 512
"""Token budgets are looked for in multiples of this."""
MOST_TOKENS = 2**20


@dataclass(frozen=True)
class Setting:
    """What the bytes of a rank depend on."""

    model: Model
    world: World
    gpu: Gpu
    offloads_optimizer: bool
    bucket_bytes: int
    """Of a weight update on its way to the servers."""
    is_colocated: bool
    broadcasts_in_flight: bool = False
    """Rank 0 sends weights to the servers while it trains."""
    makes_logits: bool = True
    """The gradient of a stage's loss comes from float32 logits."""

    @cached_property
    def states(self) -> tuple[States, ...]:
        """Of a rank of each pipeline stage; they depend on no token."""
        return self.model.states_of(self.world)


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on the GPU of the data-parallel rank with the largest optimizer of a pipeline stage; the others of the
    stage need less by some kilobytes of alignment."""

    stage: int
    states: States
    optimizer_on_host: bool
    activations: float
    """Kept from forward to backward."""
    working: float
    """Gradients inside a layer, and layers that are recomputed."""
    head: float
    """Log-probs and their gradient; on the last stage."""
    sync: float
    """Tensors on their way to the servers."""
    in_flight: float
    """The part of them that is on their way beside training."""
    reserved: float

    @property
    def resident(self) -> float:
        """What is there in every phase."""
        on_device = 0 if self.optimizer_on_host else self.states.optimizer
        return self.states.weights + self.states.gradients + on_device + self.reserved

    def phases(self) -> dict[str, float]:
        """Peak of each phase of the trainer. The head is done when backward enters the layers."""
        visiting = self.states.optimizer if self.optimizer_on_host else 0
        return {
            "train": self.resident + self.in_flight + self.activations + max(self.working, self.head),
            "optimizer step": self.resident + self.in_flight + visiting,
            "weight sync": self.resident + self.sync,
        }

    @property
    def peak(self) -> float:
        """The largest of them."""
        return max(self.phases().values())


def rank_memory(setting: Setting, stage: int, budget: int, num_micro_batches: int) -> RankMemory:
    """What a rank of that pipeline stage needs.

    Args:
        budget: tokens of a micro-batch; context-parallel ranks share them.
        num_micro_batches: of an update: no stage keeps more than there are.
    """
    architecture, section = setting.model.architecture, setting.world.section
    states = setting.states[stage]
    tokens = -(-budget // section.context_parallel_size)
    kept = kept_bytes(architecture, section, stage, tokens, num_micro_batches)
    reserved = RESERVED_BYTES + (ASLEEP_BYTES if setting.is_colocated else 0)
    in_flight = largest_bucket(setting) if setting.broadcasts_in_flight and stage == 0 else 0.0
    head = 0.0
    if stage == section.pipeline_model_parallel_size - 1:
        on_device = 0 if setting.offloads_optimizer else states.optimizer
        free = setting.gpu.memory_bytes - (states.weights + states.gradients + on_device + reserved + in_flight + kept)
        makes_logits = setting.makes_logits or not section.bf16
        speaks = section.tensor_model_parallel_size > 1 and not makes_logits
        head = head_bytes(architecture, section, tokens, SHARED_BYTES if speaks else affordable(free), makes_logits)
    return RankMemory(
        stage=stage,
        states=states,
        optimizer_on_host=setting.offloads_optimizer,
        activations=kept,
        working=working_bytes(architecture, section, tokens),
        head=head,
        sync=sync_bytes(setting),
        in_flight=in_flight,
        reserved=reserved,
    )


def activations_by_mode(setting: Setting, stage: int, budget: int, num_micro_batches: int) -> dict[Recompute, float]:
    """What the stage would keep under each way of recomputing."""
    section = setting.world.section
    tokens = -(-budget // section.context_parallel_size)
    modes: tuple[Recompute, ...] = ("none", "selective", "full")
    return {
        mode: kept_bytes(setting.model.architecture, section, stage, tokens, num_micro_batches, mode) for mode in modes
    }


def sync_bytes(setting: Setting) -> float:
    """A tensor gathered from its shards, and a bucket with its copy in one piece (`sync.distributed`, `sync.ipc`)."""
    largest = largest_tensor(setting)
    gathered = 2 * largest if setting.world.section.tensor_model_parallel_size > 1 else largest
    return gathered + 2 * largest_bucket(setting)


def largest_bucket(setting: Setting) -> float:
    """A tensor that is larger than a bucket travels in one of its own."""
    return max(setting.bucket_bytes, largest_tensor(setting))


def largest_tensor(setting: Setting) -> float:
    """Bytes of the largest whole tensor, in the dtype in which it is served."""
    architecture = setting.model.architecture
    width = 2 if setting.world.section.bf16 else 4
    return width * max(architecture.vocab_size, 2 * architecture.ffn_size) * architecture.hidden_size


def ranks(setting: Setting, budget: int, num_micro_batches: int) -> list[RankMemory]:
    """One rank of each pipeline stage."""
    stages = range(setting.world.section.pipeline_model_parallel_size)
    return [rank_memory(setting, stage, budget, num_micro_batches) for stage in stages]


def fitting_budget(setting: Setting, num_micro_batches: int) -> int:
    """The largest token budget, a multiple of `BUDGET_STEP`, with which every stage fits; 0 where none does."""
    least, most = 0, MOST_TOKENS // BUDGET_STEP
    while least < most:
        middle = (least + most + 1) // 2
        if max(r.peak for r in ranks(setting, middle * BUDGET_STEP, num_micro_batches)) <= setting.gpu.memory_bytes:
            least = middle
        else:
            most = middle - 1
    return least * BUDGET_STEP


def memory_problems(setting: Setting, found: list[RankMemory], server: ServerMemory, longest: int) -> Iterator[str]:
    """By how much the GPUs are too small: for the trainer, and for a server with one response of that many tokens."""
    size = setting.gpu.memory_bytes
    worst = max(found, key=lambda rank: rank.peak)
    if worst.peak > size:
        phase = max(worst.phases(), key=worst.phases().__getitem__)
        yield (
            f"pipeline stage {worst.stage} needs {worst.peak / GIB:.1f} GiB in its phase {phase!r}, a "
            f"{setting.gpu.name} has {size / GIB:.1f}: over by {(worst.peak - size) / GIB:.1f} GiB"
        )
    needed = longest * server.kv_bytes_per_token
    if server.kv_cache < needed:
        where = "beside the trainer" if setting.is_colocated else "on its GPU"
        yield (
            f"a server has {server.kv_cache / GIB:.1f} GiB for keys and values {where}, one response of {longest} "
            f"tokens needs {needed / GIB:.1f}: over by {(needed - server.kv_cache) / GIB:.1f} GiB"
        )
