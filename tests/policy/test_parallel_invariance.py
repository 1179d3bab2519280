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

pytestmark = pytest.mark.long_file

TP2 = {"tensor_model_parallel_size": 2}
PP2 = {"pipeline_model_parallel_size": 2}
SP = {"sequence_parallel": True}
CP2 = {"context_parallel_size": 2}
OVERLAP = {"overlap_grad_reduce": True, "overlap_param_gather": True}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
VPP2 = {"pipeline_model_parallel_size": 4, "virtual_pipeline_model_parallel_size": 2}
# ranks -> name -> (megatron section, budget, batch); a small budget: several micro-batches per rank
LAYOUTS: dict[int, dict[str, tuple[dict, int, str]]] = {
    1: {
        "alone": ({}, 4096, "ragged"),
        "alone-one-positive": ({}, 4096, "one positive"),
        "alone-masked": ({}, 4096, "masked"),
        "many-micro-batches-masked": ({}, 45, "masked"),
        "many-micro-batches": ({}, 45, "ragged"),
        "full-recompute": (FULL, 64, "ragged"),
        "selective-recompute": ({"recompute_granularity": "selective"}, 64, "ragged"),
    },
    2: {
        "tp2": (TP2, 64, "ragged"),
        "tp2-sp": (TP2 | SP, 64, "ragged"),
        "tp2-sp-masked": (TP2 | SP, 64, "masked"),
        "tp2-sp-full-recompute": (TP2 | SP | FULL, 64, "ragged"),
        "pp2": (PP2, 64, "ragged"),
        "cp2": (CP2, 64, "ragged"),
        "cp2-masked": (CP2, 64, "masked"),
        "cp2-full-recompute": (CP2 | FULL, 64, "ragged"),
        "dp2": ({}, 64, "ragged"),
        "dp2-reversed": ({}, 64, "reversed"),
        "dp2-one-positive": ({}, 64, "one positive"),
        "dp2-masked": ({}, 64, "masked"),
        "dp2-plain-optimizer": ({"use_distributed_optimizer": False}, 64, "ragged"),
        "dp2-overlap": (OVERLAP, 64, "ragged"),
        "dp2-overlap-one-positive": (OVERLAP, 64, "one positive"),
        "dp2-overlap-plain-optimizer": (OVERLAP | {"use_distributed_optimizer": False}, 64, "ragged"),
        "cp2-overlap": (CP2 | OVERLAP, 64, "ragged"),
    },
    4: {
        "tp2-pp2-sp": (TP2 | PP2 | SP, 64, "ragged"),
        "tp2-sp-dp2": (TP2 | SP, 64, "ragged"),
        "pp2-dp2": (PP2, 64, "ragged"),
        "pp2-dp2-overlap": (PP2 | OVERLAP, 64, "ragged"),
        "tp2-sp-dp2-overlap": (TP2 | SP | OVERLAP, 64, "ragged"),
        "cp4": ({"context_parallel_size": 4}, 64, "ragged"),
        "cp2-tp2-sp": (CP2 | TP2 | SP, 64, "ragged"),
        "cp2-pp2": (CP2 | PP2, 64, "ragged"),
        "cp2-dp2": (CP2, 64, "ragged"),
        "dp4": ({}, 64, "ragged"),
        "dp4-one-positive": ({}, 64, "one positive"),
        "tp4-of-two-groups": ({"tensor_model_parallel_size": 4}, 64, "ragged"),
    },
}
# interleaved stages need as many layers as there are pieces
DEEP: dict[int, dict[str, tuple[dict, int, str]]] = {
    1: {"alone": ({}, 4096, "ragged")},
    4: {"pp4-vpp2": (VPP2, 64, "ragged"), "pp4-vpp2-few-samples": (VPP2, 4096, "ragged")},
}
# Qwen2 has biases, Qwen3 norms on queries and keys: two ranks are enough to tell these apart
MODELS: dict[str, tuple[str, int, dict]] = {
    "Qwen2": ("Qwen2", 2, LAYOUTS),
    "Qwen3": ("Qwen3", 2, {ranks: LAYOUTS[ranks] for ranks in (1, 2)}),
    "deep Qwen2": ("Qwen2", 8, DEEP),
}


@pytest.fixture(scope="module", params=MODELS)
def updates(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Layout -> what its first update gave."""
    base = tmp_path_factory.mktemp("updates")
    family, num_layers, layouts = MODELS[request.param]
    # 41 is odd: tensor parallelism pads the vocabulary
    model = write_tiny_model(family, base / "model", vocab_size=41, num_hidden_layers=num_layers)
    for ranks in layouts:
        run_on_gloo(first_updates, ranks, model, layouts[ranks], base)
    found = {name: load_file(base / f"{name}.safetensors") for ranks in layouts for name in layouts[ranks]}
    # a layer's, with the embedding, which is tied, and the last norm
    num_gradients = 2 + num_layers * {"Qwen2": 12, "Qwen3": 11}[family]
    assert sum(name.startswith("grad/") for name in found["alone"]) == num_gradients
    return found


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def test_the_first_update_is_the_same_under_every_layout(updates: dict[str, dict]) -> None:
    for layout, split in updates.items():
        batch = next((batch for batch in ("one-positive", "masked") if layout.endswith(batch)), None)
        alone = updates[f"alone-{batch}" if batch else "alone"]
        assert split.keys() == alone.keys()
        # of another order the statistics are too: loss, gradients and weights are not
        names = [name for name in alone if not (layout.endswith("reversed") and name in ("logprobs", "entropies"))]
        differences = {name: relative_l2(split[name], alone[name]) for name in names}
        assert max(differences.values()) <= 1e-5, (layout, {k: v for k, v in differences.items() if v > 1e-5})


def test_every_bias_and_norm_gets_a_gradient(updates: dict[str, dict]) -> None:
    for name, tensor in updates["alone"].items():
        if name.startswith("grad/"):
            assert float(tensor.abs().max()) > 0, name
