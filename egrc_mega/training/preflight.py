"""Everything that can be checked before a process group, a server or a folder exists, told at once."""

from collections.abc import Iterator
from pathlib import Path

import torch

from egrc_mega import open_files
from egrc_mega.config.check import problems
from egrc_mega.config.config import Config
from egrc_mega.convert.companions import companions
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.parallel import ParallelLayout, layout_problems
from egrc_mega.convert.presets import PRESETS
from egrc_mega.convert.weight_files import has_weights, weight_files
from egrc_mega.errors import ConfigError, EgrcError, ModelError, StorageError
from egrc_mega.rollout.start.sglang import find_python
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.trackers.tracker import require_installed
from egrc_mega.training.lengths import length_problems


def preflight(config: Config, world_size: int, local_world_size: int) -> None:
    """Refuse what cannot run on so many ranks, so many of them on each machine.

    Raises:
        EgrcError: of the class of the first problem, with one line for each.
    """
    found = [
        *_limit_problems(),
        *_model_problems(config),
        *_tracker_problems(config),
        *problems(config, world_size, local_world_size),
    ]
    if found:
        raise type(found[0])("\n".join(map(str, found)))


def _limit_problems() -> Iterator[EgrcError]:
    limit = open_files.raise_limit()
    if 0 <= limit < open_files.NEEDED:  # -1 says that there is none
        yield StorageError(
            f"open files: the system allows this process {limit}, a run needs {open_files.NEEDED}; raise the "
            f"hard limit (ulimit -Hn)"
        )


def _tracker_problems(config: Config) -> Iterator[EgrcError]:
    for name in config.observe.trackers:
        try:
            require_installed(name, "observe.trackers")
        except ConfigError as error:
            yield error


def _model_problems(config: Config) -> Iterator[EgrcError]:
    path = config.model.path
    if not path.is_dir():
        yield ModelError(f"model.path: {path} is not a folder; {_what_instead(path)}")
        return
    try:
        architecture = read_architecture(path)
    except ModelError as error:
        yield error
        return
    try:
        companions(path)
        if has_weights(path):
            HfReader(path)
    except ModelError as error:
        yield error
    yield from _contradictions(config, architecture)
    yield from length_problems(config, architecture.model_fields["max_sequence_length"])
    found = [
        *layout_problems(architecture, ParallelLayout.of(config.megatron)),
        *_expert_problems(architecture, config.megatron, has_gpus=_has_gpus(config)),
    ]
    for problem in found or _megatrons_own_problem(architecture, config.megatron):
        yield ConfigError(f"megatron.{problem}")


def _what_instead(path: Path) -> str:
    if path.name in PRESETS:
        return f"{path.name} is a preset, which `egrc plan` takes for a model; a run needs a Hugging Face model folder"
    return "give a local Hugging Face model folder"


def preflight_start(config: Config, *, starts_servers: bool) -> None:
    """Refuse what a dry run does without, for it may be made elsewhere: weights, and the servers' environment.

    Args:
        starts_servers: whether this machine starts those that are not somebody else's.

    Raises:
        EgrcError: one of them is missing.
    """
    weight_files(config.model.path)
    if starts_servers and config.rollout.server == "sglang" and config.run.replay_rollouts is None:
        find_python(config.rollout)


def _has_gpus(config: Config) -> bool:
    """Of this machine, or of those that the configuration is for: a dry run may plan elsewhere."""
    return torch.cuda.is_available() or config.rollout.device == "cuda"


def _expert_problems(architecture: Architecture, section: MegatronSection, *, has_gpus: bool) -> Iterator[str]:
    """What megatron's mixtures of experts refuse at the first training step only."""
    tensor = section.tensor_model_parallel_size
    if not architecture.num_experts or tensor == 1:
        return
    if not section.sequence_parallel:
        yield (
            f"sequence_parallel: false, but at tensor_model_parallel_size {tensor} megatron-core trains no experts "
            f"without it; set it to true"
        )
    if not has_gpus:
        yield (
            f"tensor_model_parallel_size: {tensor}, but experts hand over parts of unequal length, which gloo cannot "
            f"gather; without a GPU share them with expert_model_parallel_size"
        )


def _megatrons_own_problem(architecture: Architecture, section: MegatronSection) -> Iterator[str]:
    """What megatron-core says against the layout when it makes its configuration."""
    from egrc_mega.policy import distributed  # noqa: F401 (it bends megatron to the CPU where there is no CUDA)
    from egrc_mega.policy.model import transformer_config

    try:
        transformer_config(architecture, section)
    except (ValueError, AssertionError, NotImplementedError) as error:
        yield f"*: megatron-core refuses the layout: {' '.join(str(error).split()) or type(error).__name__}"


def _contradictions(config: Config, architecture: Architecture) -> Iterator[EgrcError]:
    """What the recipe expects of the model, against the model's own config.json."""
    path = config.model.path / "config.json"
    found = HfConfig.read(config.model.path).fields | {name: told.value for name, told in architecture.record.items()}
    for name, expected in config.model.expects.items():
        if found.get(name) != expected:
            yield ModelError(
                f"model.expects.{name}: {expected}, but {path} says {found.get(name)}; "
                f"give the recipe's model or change the recipe"
            )
