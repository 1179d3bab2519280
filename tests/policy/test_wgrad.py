"""Weight gradients that are added up inside the product: the same sums, over micro-batches and shards, in float32.

The form that a GPU uses for 16-bit factors (`torch.addmm` into its own float32 sum) does not exist on a CPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.policy import layer_spec, model, wgrad
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import first_fused_updates, first_updates, ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

# isort: split
from megatron.core.tensor_parallel import layers


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_grad_accum_fusion_available", layers._grad_accum_fusion_available)
    monkeypatch.setattr(layers, wgrad.NAME, wgrad, raising=False)
    monkeypatch.setattr(layers, "_grad_accum_fusion_available", True)
    for module in (layer_spec, model):
        monkeypatch.setattr(module, "fuses_weight_gradients", lambda: True)


def gradients(folder: Path, **section: Any) -> dict[str, torch.Tensor]:
    policy = Policy(folder, MegatronSection(**section), PolicySection(max_tokens_per_micro_batch=100))
    found: dict[str, torch.Tensor] = {}

    def note(_stats: object) -> None:
        found.update({n: p.main_grad.clone() for n, p in policy.pieces[0].named_parameters()})

    policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3, inspect=note)
    return found


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("bf16", [False, True])
def test_the_sums_over_micro_batches_are_those_without(
    tmp_path: Path, bf16: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    plain = gradients(folder, bf16=bf16)
    request.getfixturevalue("fused")
    calls: list[torch.dtype] = []
    original = wgrad.wgrad_gemm_accum_fp32
    monkeypatch.setattr(
        wgrad, "wgrad_gemm_accum_fp32", lambda x, g, total: calls.append(total.dtype) or original(x, g, total)
    )
    inside = gradients(folder, bf16=bf16)
    for name, gradient in inside.items():
        # without, every micro-batch's share is rounded to 16 bits
        bound = 2e-2 if bf16 else 1e-6
        assert float((gradient - plain[name]).norm()) <= bound * float(plain[name].norm()), name
    num_layers, num_linears = 2, 4
    assert len(calls) % (num_layers * num_linears) == 0 and len(calls) >= 2 * num_layers * num_linears
    assert set(calls) == {torch.float32}


def test_the_sums_of_shards_are_those_of_one_rank(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    layouts = {
        "plain": ({"tensor_model_parallel_size": 2}, 100, "ragged"),
        "sequence": ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, 100, "ragged"),
        "data": ({}, 100, "ragged"),
    }
    run_on_gloo(first_updates, 2, folder, layouts, _made(tmp_path / "after"))
    run_on_gloo(first_fused_updates, 2, folder, layouts, _made(tmp_path / "inside"))
    for name in layouts:
        after, inside = (load_file(tmp_path / way / f"{name}.safetensors") for way in ("after", "inside"))
        for key, expected in after.items():
            torch.testing.assert_close(inside[key], expected, rtol=1e-5, atol=1e-5 if "weight" in key else 1e-6)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_an_extension_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, wgrad.NAME, "apex's", raising=False)
    wgrad.install()
    assert getattr(layers, wgrad.NAME) == "apex's"
