"""The sizes of the model that a configuration names: of its folder's config.json, or of a preset without one."""

import math
from functools import cached_property
from pathlib import Path

from egrc_mega.convert.families.registry import architecture_of, read_architecture
from egrc_mega.convert.family import Architecture, Entry
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.convert.shapes import padded_shape, split_dimension
from egrc_mega.errors import ModelError
from egrc_mega.plan.states import States, World, states_of_rank
from egrc_mega.policy.flops import FlopModel

SERVED_BYTES = 2
"""Servers compute in bf16."""


class Model:
    """An architecture, where its sizes come from, and sums over its table that are wanted again and again."""

    def __init__(self, architecture: Architecture, origin: str) -> None:
        self.architecture, self.origin = architecture, origin
        self._served: dict[tuple[int, bool], float] = {}
        self._states: dict[str, tuple[States, ...]] = {}

    @cached_property
    def flops(self) -> FlopModel:
        """Operations of a forward."""
        return FlopModel.of(self.architecture)

    @cached_property
    def num_parameters(self) -> int:
        """Of the whole model, vocabulary not padded."""
        return sum(math.prod(entry.shape) * count for entry, count in self._kinds)

    @cached_property
    def _kinds(self) -> list[tuple[Entry, int]]:
        """One entry of each kind and shape, and how many there are: mixtures have ten thousands."""
        found: dict[tuple[object, ...], tuple[Entry, int]] = {}
        for entry in self.architecture.entries():
            key = (entry.shape, entry.kind, entry.is_expert)
            found[key] = (entry, found[key][1] + 1 if key in found else 1)
        return list(found.values())

    def states_of(self, world: World) -> tuple[States, ...]:
        """What a rank of each pipeline stage holds that lasts from step to step."""
        key = f"{world.num_ranks} {world.section.model_dump_json()}"
        if key not in self._states:
            stages = range(world.section.pipeline_model_parallel_size)
            self._states[key] = tuple(states_of_rank(self.architecture, world, stage) for stage in stages)
        return self._states[key]

    def served_bytes(self, tensor_parallel_size: int, *, only_experts: bool = False) -> float:
        """Weights on one GPU of a server, in bf16."""
        key = (tensor_parallel_size, only_experts)
        if key not in self._served:
            self._served[key] = SERVED_BYTES * self._parameters_of_a_gpu(*key)
        return self._served[key]

    def _parameters_of_a_gpu(self, tensor: int, only_experts: bool) -> float:
        total = 0.0
        for entry, count in self._kinds:
            if entry.is_expert or not only_experts:
                size = count * math.prod(padded_shape(entry, self.architecture, tensor))
                total += size if split_dimension(entry) is None else size / tensor
        return total

    def kv_bytes_per_token(self, tensor_parallel_size: int) -> float:
        """Keys and values of one token on one GPU of a server; where GPUs outnumber the groups, groups are copied."""
        architecture = self.architecture
        groups = max(1, architecture.num_query_groups // tensor_parallel_size)
        return 2.0 * groups * architecture.head_dim * architecture.num_layers * SERVED_BYTES


def find_model(path: Path) -> Model:
    """The model of a folder.

    Raises:
        ModelError: config.json cannot be used, or there is no folder and no preset is called like it.
    """
    if (path / "config.json").exists():
        return Model(read_architecture(path), str(path / "config.json"))
    name = path.name.lower()
    if name not in PRESETS:
        raise ModelError(
            f"model.path: {path} has no config.json, and no preset is called {path.name}; put the model's config.json "
            f"there (weights are not needed), or name one of {', '.join(sorted(PRESETS))}"
        )
    return Model(architecture_of(HfConfig(dict(PRESETS[name]), f"preset {name}")), f"preset {name} (no folder yet)")
