"""A plan: what a configuration needs and how long it takes on so many GPUs of a kind."""

from dataclasses import dataclass, replace
from functools import cached_property

from egrc_mega.config.check import colocation_problems, megatron_problems
from egrc_mega.config.config import Config
from egrc_mega.convert.parallel import ParallelLayout, layout_problems
from egrc_mega.plan.activations import Recompute
from egrc_mega.plan.constants import CONSTANTS, Constants
from egrc_mega.plan.evaluation_time import evaluation_seconds, num_evaluations
from egrc_mega.plan.generation import Server
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.memory import RankMemory, Setting, activations_by_mode, fitting_budget, memory_problems, ranks
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.serving import ServerMemory, server_memory
from egrc_mega.plan.split import Split, split_problems
from egrc_mega.plan.states import World
from egrc_mega.plan.step_time import StepTime, step_time
from egrc_mega.plan.training_time import num_micro_batches
from egrc_mega.plan.workload import StageWork


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage and its expected step."""

    stage: StageWork
    time: StepTime

    @property
    def hours(self) -> float:
        """Of the whole stage."""
        return self.stage.steps * self.time.total / 3600


@dataclass(frozen=True)
class Memory:
    """Bytes of a possible layout."""

    setting: Setting
    num_micro_batches: int
    """Of an update and data-parallel rank, of the stage with most."""
    ranks: list[RankMemory]
    server: ServerMemory
    colocated_peak: float | None
    """On a GPU that trains and serves; None where none does both."""

    @cached_property
    def fitting_budget(self) -> int:
        """The largest token budget of a micro-batch that fits."""
        return fitting_budget(self.setting, self.num_micro_batches)

    def activations(self, budget: int) -> dict[Recompute, float]:
        """Bytes of the first stage, which keeps most, under each way of recomputing."""
        return activations_by_mode(self.setting, 0, budget, self.num_micro_batches)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before anything starts."""

    config: Config
    model: Model
    gpu: Gpu
    split: Split
    problems: list[str]
    """Why it is impossible; empty: it works."""
    memory: Memory | None = None
    """None: the layout has no ranks to speak of."""
    stages: tuple[StagePlan, ...] = ()
    evaluation_hours: float = 0.0
    spare: ServerMemory | None = None
    """Of a spare server; None: evaluations are done in between."""

    @property
    def hours(self) -> float:
        """Of the whole recipe. Beside training the last evaluation ends it, or all of them where they take longer."""
        training = sum(each.hours for each in self.stages)
        if self.spare is None:
            return training + self.evaluation_hours
        return max(training + self.evaluation_hours / num_evaluations(self.config), self.evaluation_hours)

    @property
    def num_spare_gpus(self) -> int:
        """GPUs of spare servers, which are beside those of the split."""
        spare = self.config.evaluation.spare
        return spare.num_servers * self.config.rollout.tensor_parallel_size if spare else 0

    @property
    def gpu_hours(self) -> float:
        """Of the whole recipe, all GPUs counted all of the time."""
        return self.hours * (self.split.num_gpus + self.num_spare_gpus)


def make_plan(
    config: Config,
    model: Model,
    gpu: Gpu,
    split: Split,
    works: list[StageWork],
    constants: Constants = CONSTANTS,
) -> Plan:
    """Reckon a layout through; an impossible one has its reasons in `problems`."""
    section = config.megatron
    problems = [str(problem) for problem in (*megatron_problems(config), *colocation_problems(config))]
    problems += [f"megatron.{line}" for line in layout_problems(model.architecture, ParallelLayout.of(section))]
    problems += server_layout_problems(model, config.rollout.tensor_parallel_size)
    problems += split_problems(split, section, config.rollout.tensor_parallel_size, gpu)
    problems += budget_problems(config, works)
    if problems:
        return Plan(config, model, gpu, split, problems)
    memory = _memory(config, model, gpu, split, works)
    longest = max(each.longest + each.work.prompt_tokens for each in works)
    problems = list(memory_problems(memory.setting, memory.ranks, memory.server, longest))
    if problems:
        return Plan(config, model, gpu, split, problems, memory)
    server = Server(model, gpu, config.rollout.tensor_parallel_size, memory.server.kv_tokens)
    stages = tuple(
        StagePlan(each, step_time(config, memory.setting.world, server, split, each.work, constants)) for each in works
    )
    spare = server_memory(model, gpu, config.rollout) if config.evaluation.spare else None
    hours = _evaluation_hours(config, server, split, works, constants, spare)
    return Plan(config, model, gpu, split, [], memory, stages, hours, spare)


def _evaluation_hours(
    config: Config,
    server: Server,
    split: Split,
    works: list[StageWork],
    constants: Constants,
    spare: ServerMemory | None,
) -> float:
    """Of all evaluations, on the servers that sample or on spare ones."""
    num_servers = split.rollout // server.tensor_parallel_size
    if spare and config.evaluation.spare:
        num_servers, server = config.evaluation.spare.num_servers, replace(server, kv_tokens=spare.kv_tokens)
    return evaluation_seconds(config, server, num_servers, works, constants) / 3600


def _setting(config: Config, model: Model, gpu: Gpu, split: Split) -> Setting:
    return Setting(
        model=model,
        world=World(split.trainer, config.megatron),
        gpu=gpu,
        offloads_optimizer=config.policy.offload_optimizer,
        bucket_bytes=config.sync.bucket_mib * 2**20,
        is_colocated=split.is_colocated,
        broadcasts_in_flight=config.rollout.mode == "async" and config.sync.transport == "distributed",
        makes_logits=_makes_logits(config),
    )


def _makes_logits(config: Config) -> bool:
    """Whether a loss's gradient comes from float32 logits: the engine's own conditions, in bf16 on a GPU."""
    if config.policy.fused_output_layer:
        return False
    return any(
        stage.rollout.top_k or stage.loss.needs_whole_responses or stage.loss.entropy_coef for stage in config.stages
    )


def _memory(config: Config, model: Model, gpu: Gpu, split: Split, works: list[StageWork]) -> Memory:
    setting, budget = _setting(config, model, gpu, split), config.policy.max_tokens_per_micro_batch
    count = max(num_micro_batches(setting.world, each.work, budget) for each in works)
    found = ranks(setting, budget, count)
    resident = max(rank.resident for rank in found) if split.is_colocated else 0.0
    server = server_memory(model, gpu, config.rollout, resident)
    peak = None
    if split.is_colocated:
        serving = resident + server.weights + max(0.0, server.kv_cache)
        peak = max(serving, *(rank.peak for rank in found))
    return Memory(setting, count, found, server, peak)


def server_layout_problems(model: Model, size: int) -> list[str]:
    """Why a server cannot share the model among so many GPUs."""
    heads, groups = model.architecture.num_heads, model.architecture.num_query_groups
    found = []
    if heads % size:
        found.append(f"rollout.tensor_parallel_size: {size} does not divide the {heads} attention heads")
    if groups % size and size % groups:
        found.append(
            f"rollout.tensor_parallel_size: {size} is neither a divisor nor a multiple of the {groups} query groups"
        )
    return found


def budget_problems(config: Config, works: list[StageWork]) -> list[str]:
    """Whether a micro-batch holds the longest sample."""
    budget = config.policy.max_tokens_per_micro_batch
    worst = max(works, key=lambda each: each.longest)
    needed = worst.longest + worst.work.prompt_tokens
    if needed <= budget:
        return []
    return [
        f"policy.max_tokens_per_micro_batch: {budget} cannot hold a response of stage {worst.name} of "
        f"{worst.longest} tokens and its prompt of {worst.work.prompt_tokens}; raise it to {needed} or more"
    ]
