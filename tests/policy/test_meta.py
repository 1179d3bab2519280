"""The models of the recipes at their real size, on the meta device: every parameter and every byte is accounted for."""

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
import transformers

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.family import Architecture, Kind
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.parallel import ParallelLayout, parameters_of_rank
from egrc_mega.convert.presets import PRESETS
from egrc_mega.plan.states import World, states_of_rank
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.meta_worker import states_by_rank

TP, PP, DP = 2, 2, 2
SEVEN, SMALL = "deepseek-r1-distill-qwen-7b", "deepseek-r1-distill-qwen-1.5b"

CASES: list[tuple[str, dict]] = [
    (SEVEN, {}),
    # an odd vocabulary is padded; tied embeddings have a copy on the last stage
    (SMALL, {"vocab_size": 151937}),
    (SMALL, {"tie_word_embeddings": True}),
    ("deepseek-r1-distill-llama-8b", {}),
]
SECTION = MegatronSection(
    tensor_model_parallel_size=TP, pipeline_model_parallel_size=PP, sequence_parallel=True, bf16=True
)
FOUR_LAYERS = {"num_hidden_layers": 4}
ODD_AND_TIED = FOUR_LAYERS | {"vocab_size": 151937, "tie_word_embeddings": True}
IN_BUCKETS = {"overlap_grad_reduce": True}
WHOLE = {"use_distributed_optimizer": False}
LAYOUTS: dict[str, tuple[str, dict, dict, list[int], int]] = {
    # the recipe's layout on 16 GPUs, every data-parallel rank of it
    "the recipe": (SEVEN, {}, {"tensor_model_parallel_size": 4, **IN_BUCKETS}, [0, 4, 8, 12], 16),
    "one rank": (SMALL, FOUR_LAYERS, {}, [0], 1),
    "tied on one stage": (SMALL, ODD_AND_TIED, {}, [0, 2], 3),
    "tied on two stages": (SMALL, ODD_AND_TIED, {"pipeline_model_parallel_size": 2}, [0, 1, 2, 3, 4, 5], 6),
    "tied in buckets": (
        SMALL,
        ODD_AND_TIED,
        {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2, **IN_BUCKETS},
        [0, 4, 6, 10],
        12,
    ),
    "no sharding": (SEVEN, FOUR_LAYERS, {"tensor_model_parallel_size": 4, **WHOLE}, [0, 4], 8),
    "float32": (SEVEN, FOUR_LAYERS, {"tensor_model_parallel_size": 4, "bf16": False}, [0, 4], 8),
    "float32, no sharding": (SMALL, FOUR_LAYERS, {"bf16": False, **WHOLE}, [0], 2),
    "uneven stages": (
        SMALL,
        {"num_hidden_layers": 7},
        {"pipeline_model_parallel_size": 3, "num_layers_in_first_pipeline_stage": 1},
        [0, 1, 2],
        3,
    ),
    "virtual stages": (
        "qwen3-0.6b",
        {"num_hidden_layers": 12},
        {"pipeline_model_parallel_size": 3, "virtual_pipeline_model_parallel_size": 2, **IN_BUCKETS},
        [0, 1, 2, 4],
        6,
    ),
    "experts": (
        "qwen3-30b-a3b",
        {"num_hidden_layers": 2, "num_experts": 8},
        {"expert_model_parallel_size": 2},
        [0, 1, 2, 3],
        4,
    ),
    "context": ("deepseek-r1-distill-llama-8b", FOUR_LAYERS, {"context_parallel_size": 2}, [0, 1, 2, 3], 4),
}
"""Preset, changes to it, changes to the section, ranks to look at, ranks in all."""
KINDS = ("parameters", "weights", "gradients", "optimizer")


@pytest.fixture(scope="module")
def pretender() -> Iterator[ProcessPoolExecutor]:
    """A process of its own that pretends to be every rank in turn."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def architecture_with(preset: str, changes: dict) -> Architecture:
    return architecture_of(HfConfig(PRESETS[preset] | changes))


@pytest.mark.parametrize(("preset", "changes"), CASES)
def test_the_ranks_of_a_world_hold_the_model_to_the_parameter(
    preset: str, changes: dict, pretender: ProcessPoolExecutor
) -> None:
    architecture, world_size = architecture_with(preset, changes), TP * PP * DP
    ranks = pretender.submit(states_by_rank, architecture, SECTION, list(range(world_size)), world_size).result(150)
    layout = ParallelLayout.of(SECTION)
    counts = [rank["parameters"] for rank in ranks]
    assert counts == [parameters_of_rank(architecture, layout, rank["stage"]) for rank in ranks]

    config = transformers.AutoConfig.for_model(**PRESETS[preset] | changes)
    with torch.device("meta"):
        whole = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    replicated = sum(math.prod(e.shape) for e in architecture.entries() if e.kind is Kind.REPLICATED)
    embedding = architecture.padded_vocab_size(TP) * architecture.hidden_size
    padding = embedding - architecture.vocab_size * architecture.hidden_size
    # tied: the last stage has a copy of the padded embedding; else both are padded
    extra = padding + embedding if architecture.tied else 2 * padding
    assert sum(counts) == DP * (whole + (TP - 1) * replicated + extra)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_plan_has_weights_gradients_and_optimizer_of_every_rank_to_the_byte(
    name: str, pretender: ProcessPoolExecutor
) -> None:
    preset, changes, fields, ranks, world_size = LAYOUTS[name]
    architecture = architecture_with(preset, changes)
    section = MegatronSection(**({"bf16": True} | fields))
    found = pretender.submit(states_by_rank, architecture, section, ranks, world_size).result(150)
    world, overlaps = World(world_size, section), bool(section.overlap_grad_reduce)
    planned = [states_of_rank(architecture, world, r["stage"], r["replica"], overlaps=overlaps) for r in found]
    assert [{kind: getattr(states, kind) for kind in KINDS} for states in planned] == [
        {kind: rank[kind] for kind in KINDS} for rank in found
    ]
