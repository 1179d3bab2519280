"""Published times of whole steps as data (`published.json`), and what the model says of each of them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.plan.constants import Constants
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.gpus import find_gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.states import World
from egrc_mega.plan.training_time import Work, training_time
from egrc_mega.sections.policy import MegatronSection

FILE = Path(__file__).parent / "published.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A published time of a step, with all that it depends on."""

    fields: dict[str, Any]
    is_fitted_on: bool

    @property
    def name(self) -> str:
        """Model, GPUs, mode and version, which together are unique."""
        return str(self.fields["name"])

    @property
    def seconds(self) -> float:
        """The published time of a step."""
        return float(self.fields["seconds"])

    @property
    def why_not(self) -> str | None:
        """Why the model has nothing to say of it; None: it has."""
        why: str | None = self.fields["not_eligible"]
        return why

    @property
    def is_mixture(self) -> bool:
        """Of experts, which the model of time knows badly."""
        return self.why_not is None and bool(model_of(self.fields["model"]).architecture.num_experts)


@cache
def published() -> dict[str, Any]:
    """The file as it is."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def rows() -> list[Row]:
    """All published steps, eligible or not, in the file's order."""
    data = published()
    return [Row(fields, fields["name"] in data["fitted_on"]) for fields in data["steps"]]


@cache
def model_of(name: str) -> Model:
    """A preset, or a model whose sizes stand in the file."""
    fields = published()["models"].get(name) or PRESETS[name]
    return Model(architecture_of(HfConfig(dict(fields), name)), name)


def predicted_seconds(row: Row, constants: Constants) -> float:
    """What the model says of an eligible row: both phases in turn, or the longer one where it is one step off."""
    rollout, training = predicted_phases(row, constants)
    return max(rollout, training) if row.fields["steps_off"] else rollout + training


def predicted_phases(row: Row, constants: Constants) -> tuple[float, float]:
    """Seconds of rollout and of everything that the trainer does."""
    fields, assumed = row.fields, published()["assumed"]
    model, gpu = model_of(fields["model"]), find_gpu(fields["gpu"])
    lengths, prompt = Lengths(fields["mean_tokens"], fields["cap"]), int(assumed["prompt_tokens"])
    updates = fields["responses"] // fields["responses_per_update"]
    work = Work(fields["responses"], lengths, prompt, updates, int(assumed["scorings"]))
    world = World(fields["trainer_gpus"], _section(fields))
    training = training_time(model, world, gpu, work, fields["cap"], constants)

    size, is_apart = fields["server_tensor"], fields["steps_off"] > 0
    share = assumed["static_share"]["apart" if is_apart else "colocated"]
    cache_bytes = share * gpu.memory_bytes - model.served_bytes(size)
    server = Server(model, gpu, size, int(cache_bytes / model.kv_bytes_per_token(size)))
    num_servers = (fields["gpus"] - fields["trainer_gpus"] if is_apart else fields["gpus"]) // size
    rollout = batch_seconds(server, fields["responses"], num_servers, lengths, prompt, constants)
    return rollout, training.total


def _section(fields: dict[str, Any]) -> MegatronSection:
    full: dict[str, Any] = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return MegatronSection(
        tensor_model_parallel_size=fields["tensor"],
        pipeline_model_parallel_size=fields["pipeline"],
        context_parallel_size=fields["context"],
        expert_model_parallel_size=fields["expert"],
        sequence_parallel=fields["tensor"] > 1,
        bf16=True,
        **(full if fields["recompute"] == "full" else {}),
    )
