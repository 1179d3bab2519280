"""Which GPUs train and which serve."""

from dataclasses import dataclass

from egrc_mega.errors import ConfigError
from egrc_mega.plan.gpus import Gpu
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.sections.rollout import RolloutSection


@dataclass(frozen=True, slots=True)
class Split:
    """GPUs of the trainer and of the servers; colocated ones are both."""

    num_gpus: int
    trainer: int
    rollout: int
    is_colocated: bool
    origin: str
    """Why it is so, for people."""


def choose_split(section: RolloutSection, num_gpus: int, rollout_gpus: int | None) -> Split:
    """The split that the configuration and the command ask for.

    Raises:
        ConfigError: no GPU is left for one of the two, or the command contradicts the configuration.
    """
    if num_gpus < 1:
        raise ConfigError(f"--gpus: {num_gpus}, must be 1 or more")
    if section.colocated:
        return _colocated(section, num_gpus, rollout_gpus)
    if rollout_gpus is not None:
        theirs, origin = rollout_gpus, "--rollout-gpus"
    elif counts_servers(section):
        theirs = section.num_servers * section.tensor_parallel_size
        origin = "rollout.num_servers x tensor_parallel_size"
    else:
        # how many external servers there are is nobody's business but theirs
        theirs, origin = _half(num_gpus, section.tensor_parallel_size), "half of them; --rollout-gpus says otherwise"
    if not 0 < theirs < num_gpus:
        raise ConfigError(
            f"--gpus: {num_gpus}, of which servers would have {theirs} ({origin}) and the trainer {num_gpus - theirs}; "
            f"give more, change --rollout-gpus, or set rollout.colocated=true with rollout.server=sglang"
        )
    return Split(num_gpus, num_gpus - theirs, theirs, False, origin)


def counts_servers(section: RolloutSection) -> bool:
    """Whether `num_servers` says how many there are: of those that the run starts, or waits for in a folder."""
    return section.server == "sglang" or section.announce_dir is not None


def _colocated(section: RolloutSection, num_gpus: int, rollout_gpus: int | None) -> Split:
    if rollout_gpus is not None:
        raise ConfigError(f"--rollout-gpus: {rollout_gpus}, but rollout.colocated servers stand on the trainer's GPUs")
    theirs = section.num_servers * section.tensor_parallel_size if counts_servers(section) else num_gpus
    if theirs > num_gpus:
        raise ConfigError(
            f"rollout.num_servers: {section.num_servers} of {section.tensor_parallel_size} GPUs are more than the "
            f"{num_gpus} of --gpus; give fewer servers or more GPUs"
        )
    return Split(num_gpus, num_gpus, theirs, True, "rollout.colocated")


def _half(num_gpus: int, size: int) -> int:
    """Half of the GPUs, in whole servers."""
    return num_gpus // 2 // size * size or num_gpus // 2


def split_problems(split: Split, section: MegatronSection, server_size: int, gpu: Gpu) -> list[str]:
    """Why the GPUs cannot be dealt out so."""
    found = []
    sizes = {
        "tensor": section.tensor_model_parallel_size,
        "pipeline": section.pipeline_model_parallel_size,
        "context": section.context_parallel_size,
    }
    model = sizes["tensor"] * sizes["pipeline"] * sizes["context"]
    if split.trainer % model:
        names = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
        found.append(f"the trainer's {split.trainer} GPUs are no multiple of {names} = {model}")
    experts = sizes["tensor"] * sizes["pipeline"] * section.expert_model_parallel_size
    if not found and split.trainer % experts:
        found.append(f"the trainer's {split.trainer} GPUs are no multiple of tensor x pipeline x expert = {experts}")
    if split.rollout % server_size:
        found.append(f"the servers' {split.rollout} GPUs are no multiple of rollout.tensor_parallel_size {server_size}")
    if sizes["tensor"] > gpu.gpus_per_node:
        found.append(f"tensor_model_parallel_size {sizes['tensor']} reaches beyond a node of {gpu.gpus_per_node} GPUs")
    return found
