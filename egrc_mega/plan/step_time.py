"""The phases of a step, and what they add up to."""

from dataclasses import dataclass

from egrc_mega.config.config import Config
from egrc_mega.plan.constants import Constants
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.split import Split
from egrc_mega.plan.states import World
from egrc_mega.plan.training_time import TrainingTime, Work, training_time


@dataclass(frozen=True, slots=True)
class StepTime:
    """Expected seconds of a step."""

    rollout: float
    training: TrainingTime
    sync: float
    """At least: nothing but the bytes is counted."""
    mode: str
    """`rollout.mode`: `ahead` and `async` sample while they train, and `async` moves the weights meanwhile, too."""
    num_tokens: float
    """Prompts and responses of a step."""

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        if self.mode == "async":
            return max(self.rollout + self.sync, self.training.total)
        both = (self.rollout, self.training.total)
        return (max(both) if self.mode == "ahead" else sum(both)) + self.sync

    @property
    def tokens_per_s(self) -> float:
        """Prompts and responses of a step over its time."""
        return self.num_tokens / self.total


def step_time(config: Config, world: World, server: Server, split: Split, work: Work, constants: Constants) -> StepTime:
    """How long a step of a stage takes."""
    budget = config.policy.max_tokens_per_micro_batch
    num_servers = split.rollout // server.tensor_parallel_size
    training = training_time(
        server.model,
        world,
        server.gpu,
        work,
        budget,
        constants,
        offloads_optimizer=config.policy.offload_optimizer,
    )
    return StepTime(
        rollout=batch_seconds(server, work.num_responses, num_servers, work.lengths, work.prompt_tokens, constants),
        training=training,
        sync=sync_seconds(server, split, constants),
        mode=config.rollout.mode,
        num_tokens=work.num_tokens,
    )


def sync_seconds(server: Server, split: Split, constants: Constants) -> float:
    """Weights leave rank 0 once and reach every server; colocated ones read them where they are."""
    size = server.model.served_bytes(1)
    gpu = server.gpu
    is_near = split.is_colocated or split.num_gpus <= gpu.gpus_per_node
    rate = gpu.link_bytes_per_s if is_near else gpu.network_bytes_per_s
    return size / (rate * constants.bandwidth_share)
