"""One way to lay a run out, as changes to a configuration."""

import math
from dataclasses import dataclass
from typing import Any, Self

from egrc_mega.config.config import Config
from egrc_mega.plan.activations import Recompute, recompute_of
from egrc_mega.plan.split import Split, counts_servers

FULL: dict[str, Any] = {"recompute_method": "uniform", "recompute_num_layers": 1}
HALF_A_STEP = 0.5
"""How far away a choice is that changes no number of GPUs, in doublings of one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a search varies. Everything else stays as the configuration has it."""

    num_gpus: int
    tensor: int
    pipeline: int
    context: int
    recompute: Recompute
    offloads_optimizer: bool
    rollout_gpus: int | None
    """None: servers are colocated."""
    server_tensor: int
    budget: int
    """Tokens of a micro-batch."""

    @classmethod
    def of(cls, config: Config, split: Split) -> Self:
        """What the configuration itself says of all of them."""
        section = config.megatron
        return cls(
            num_gpus=split.num_gpus,
            tensor=section.tensor_model_parallel_size,
            pipeline=section.pipeline_model_parallel_size,
            context=section.context_parallel_size,
            recompute=recompute_of(section),
            offloads_optimizer=config.policy.offload_optimizer,
            rollout_gpus=None if split.is_colocated else split.rollout,
            server_tensor=config.rollout.tensor_parallel_size,
            budget=config.policy.max_tokens_per_micro_batch,
        )

    @property
    def split(self) -> Split:
        """The GPUs of the trainer and of the servers."""
        if self.rollout_gpus is None:
            return Split(self.num_gpus, self.num_gpus, self.num_gpus, True, "rollout.colocated")
        return Split(self.num_gpus, self.num_gpus - self.rollout_gpus, self.rollout_gpus, False, "a choice")

    def distance(self, other: "Choice") -> float:
        """How much of another choice it changes, in doublings."""
        sizes = ("tensor", "pipeline", "context", "server_tensor", "budget")
        apart = sum(abs(math.log2(getattr(self, name) / getattr(other, name))) for name in sizes)
        apart += HALF_A_STEP * (self.recompute != other.recompute)
        apart += HALF_A_STEP * (self.offloads_optimizer != other.offloads_optimizer)
        if self.rollout_gpus is None or other.rollout_gpus is None:
            return apart + 2 * (self.rollout_gpus is not other.rollout_gpus)
        return apart + abs(math.log2(self.rollout_gpus / other.rollout_gpus))

    def fields(self, config: Config) -> dict[str, dict[str, Any]]:
        """The fields that it sets, section by section, where the configuration has another value."""
        full = self.recompute == "full"
        own = recompute_of(config.megatron) == self.recompute
        recompute = {"recompute_granularity": None if self.recompute == "none" else self.recompute}
        recompute |= FULL if full else dict.fromkeys(FULL)
        wanted: dict[str, dict[str, Any]] = {
            "megatron": {
                "tensor_model_parallel_size": self.tensor,
                "pipeline_model_parallel_size": self.pipeline,
                "context_parallel_size": self.context,
                "sequence_parallel": self.tensor > 1,
                **_without_layers_of_stages(config, self.pipeline),
                **({} if own else recompute),
            },
            "policy": {"offload_optimizer": self.offloads_optimizer, "max_tokens_per_micro_batch": self.budget},
            "rollout": {"tensor_parallel_size": self.server_tensor, **self._servers(config)},
        }
        return {
            section: {name: value for name, value in values.items() if value != getattr(getattr(config, section), name)}
            for section, values in wanted.items()
        }

    def _servers(self, config: Config) -> dict[str, Any]:
        wanted: dict[str, Any] = {"colocated": self.rollout_gpus is None}
        if self.rollout_gpus is None:
            # colocated servers cannot sample while the policy trains, and embedded ones have no GPU
            wanted |= {"mode": "sync"}
            wanted |= {"server": "sglang"} if config.rollout.server == "embedded" else {}
        if counts_servers(config.rollout) or "server" in wanted:
            wanted |= {"num_servers": self.split.rollout // self.server_tensor}
        return wanted

    def applied(self, config: Config) -> Config:
        """The configuration with its fields."""
        update = {
            section: getattr(config, section).model_copy(update=values)
            for section, values in self.fields(config).items()
            if values
        }
        return config.model_copy(update=update)

    def options(self, config: Config, split: Split) -> list[str]:
        """What to write on the command line to have it."""
        found = [
            f"--set {section}.{name}={_text(value)}"
            for section, values in self.fields(config).items()
            for name, value in values.items()
        ]
        is_new = split.is_colocated or split.rollout != self.rollout_gpus
        if self.rollout_gpus is not None and is_new and not counts_servers(config.rollout):
            found.insert(0, f"--rollout-gpus {self.rollout_gpus}")
        return found


def _without_layers_of_stages(config: Config, pipeline: int) -> dict[str, Any]:
    """Virtual stages and layers of single stages belong to one number of stages only."""
    if pipeline == config.megatron.pipeline_model_parallel_size:
        return {}
    names = (
        "virtual_pipeline_model_parallel_size",
        "num_layers_in_first_pipeline_stage",
        "num_layers_in_last_pipeline_stage",
    )
    return dict.fromkeys(names)


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
