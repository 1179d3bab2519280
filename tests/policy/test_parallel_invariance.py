"""The first update of a fixed batch is the same under every layout (biases and norms are not at their trivial start).

The batch is ragged: odd lengths, one-token outputs, masked tokens, samples without advantage. Not covered: bitwise
equality, which summation order forbids.
"""

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import first_updates
from egrc_mega.testing.tiny_model import write_tiny_model

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
SP = {"sequence_parallel": True}
CP2 = {"context_parallel_size": 2}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
# a small budget: several micro-batches per rank
LAYOUTS: dict[int, dict[str, tuple[dict, int]]] = {
    1: {
        "alone": ({}, 4096),
        "many-micro-batches": ({}, 45),
        "full-recompute": (FULL, 64),
        "selective-recompute": ({"recompute_granularity": "selective"}, 64),
    },
    2: {
        "tp2": (TP2, 64),
        "tp2-sp": (TP2 | SP, 64),
        "tp2-sp-full-recompute": (TP2 | SP | FULL, 64),
        "pp2": (PP2, 64),
        "cp2": (CP2, 64),
        "cp2-full-recompute": (CP2 | FULL, 64),
        "dp2": ({}, 64),
        "dp2-plain-optimizer": ({"use_distributed_optimizer": False}, 64),
    },
    4: {
        "tp2-pp2-sp": (TP2 | PP2 | SP, 64),
        "tp2-sp-dp2": (TP2 | SP, 64),
        "pp2-dp2": (PP2, 64),
        "cp4": ({"context_parallel_size": 4}, 64),
        "cp2-tp2-sp": (CP2 | TP2 | SP, 64),
        "cp2-pp2": (CP2 | PP2, 64),
        "cp2-dp2": (CP2, 64),
        "dp4": ({}, 64),
        "tp4-of-two-groups": ({"tensor_model_parallel_size": 4}, 64),
    },
}
# Qwen2 has biases, Qwen3 norms on queries and keys: two ranks are enough to tell these apart
FAMILIES = {"Qwen2": (26, (1, 2, 4)), "Qwen3": (24, (1, 2))}


@pytest.fixture(scope="module", params=FAMILIES)
def updates(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Layout -> what its first update gave."""
    base = tmp_path_factory.mktemp("updates")
    # 41 is odd: tensor parallelism pads the vocabulary
    model = write_tiny_model(request.param, base / "model", vocab_size=41)
    num_gradients, worlds = FAMILIES[request.param]
    for ranks in worlds:
        run_on_gloo(first_updates, ranks, model, LAYOUTS[ranks], base)
    found = {name: load_file(base / f"{name}.safetensors") for ranks in worlds for name in LAYOUTS[ranks]}
    assert sum(name.startswith("grad/") for name in found["alone"]) == num_gradients
    return found


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def assert_same_update(updates: dict[str, dict], layout: str) -> None:
    alone, split = updates["alone"], updates[layout]
    assert split.keys() == alone.keys()
    differences = {name: relative_l2(split[name], alone[name]) for name in alone}
    assert max(differences.values()) <= 1e-5, (layout, {k: v for k, v in differences.items() if v > 1e-5})


def test_the_first_update_is_the_same_under_every_layout(updates: dict[str, dict]) -> None:
    for layout in updates:
        assert_same_update(updates, layout)


def test_every_bias_and_norm_gets_a_gradient(updates: dict[str, dict]) -> None:
    for name, tensor in updates["alone"].items():
        if name.startswith("grad/"):
            assert float(tensor.abs().max()) > 0, name
