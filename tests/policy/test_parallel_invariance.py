"""The first update of a fixed batch is the same under every layout (biases and norms are not at their trivial start).

Not covered: layouts of more than two ranks, and bitwise equality, which summation order forbids.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import first_update
from egrc_mega.testing.tiny_model import write_tiny_qwen2

LAYOUTS = {
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
    "dp2": {},
    "dp2-plain-optimizer": {"use_distributed_optimizer": False},
}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # 41 is odd: tensor parallelism pads the vocabulary
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"), vocab_size=41)


@pytest.fixture(scope="module")
def alone(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    out = tmp_path_factory.mktemp("alone") / "first.safetensors"
    run_on_gloo(first_update, 1, model_path, {}, 4096, out)
    return load_file(out)


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_update_is_the_same_under_every_layout(
    layout: str, alone: dict[str, torch.Tensor], model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "first.safetensors"
    # a small budget: several micro-batches per rank
    run_on_gloo(first_update, 2, model_path, LAYOUTS[layout], 64, out)
    split = load_file(out)
    assert split.keys() == alone.keys()
    assert sum(name.startswith("grad/") for name in split) == 26
    differences = {name: relative_l2(split[name], alone[name]) for name in alone}
    assert max(differences.values()) <= 1e-5, {k: v for k, v in differences.items() if v > 1e-5}


def test_every_bias_and_norm_gets_a_gradient(alone: dict[str, torch.Tensor]) -> None:
    for name, tensor in alone.items():
        if name.startswith("grad/"):
            assert float(tensor.abs().max()) > 0, name
