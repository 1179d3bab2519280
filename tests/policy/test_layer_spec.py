"""Which implementations a layer is made of. Transformer Engine is not here: its spec is looked at, never run."""

import pytest
import torch

from egrc_mega.policy import distributed  # noqa: F401  (first: it points megatron at the CPU)

# isort: split
from megatron.core.extensions import transformer_engine as te
from megatron.core.extensions import transformer_engine_spec_provider
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.policy import layer_spec
from egrc_mega.policy.attention import PackedAttention
from egrc_mega.policy.kernel_parts import RMSNorm
from egrc_mega.policy.layer_spec import block_spec, parts_in_use

CONFIG = TransformerConfig(num_layers=3, hidden_size=8, num_attention_heads=2, normalization="RMSNorm")


def test_without_transformer_engine_attention_and_norm_are_our_own(world_of_one: None) -> None:
    spec = block_spec(CONFIG, "auto", None)
    parts = spec.layer_specs[0].submodules
    assert len(spec.layer_specs) == 3
    assert parts.self_attention.submodules.core_attention is PackedAttention
    assert parts.input_layernorm is parts.pre_mlp_layernorm is spec.layer_norm is RMSNorm
    assert WrappedTorchNorm not in (parts.input_layernorm, parts.pre_mlp_layernorm, spec.layer_norm)


@pytest.mark.parametrize("has_engine", [True, False])
def test_with_transformer_engine_every_part_is_its(
    monkeypatch: pytest.MonkeyPatch, world_of_one: None, has_engine: bool
) -> None:
    monkeypatch.setattr(layer_spec, "HAVE_TE", has_engine)
    # megatron leaves the name out where Transformer Engine is absent
    monkeypatch.setattr(
        gpt_layer_specs, "TESpecProvider", transformer_engine_spec_provider.TESpecProvider, raising=False
    )
    monkeypatch.setattr(transformer_engine_spec_provider, "is_te_min_version", lambda _version: True)
    spec = block_spec(CONFIG, "auto" if has_engine else "transformer_engine", None)
    attention = spec.layer_specs[0].submodules.self_attention.submodules
    assert attention.linear_qkv is te.TELayerNormColumnParallelLinear
    assert attention.core_attention is te.TEDotProductAttention
    assert spec.layer_norm is te.TENorm


def test_local_keeps_transformer_engine_out(monkeypatch: pytest.MonkeyPatch, world_of_one: None) -> None:
    monkeypatch.setattr(layer_spec, "HAVE_TE", True)
    attention = block_spec(CONFIG, "local", None).layer_specs[0].submodules.self_attention.submodules
    assert attention.core_attention is PackedAttention


def test_the_parts_are_told_by_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_in_use("auto")
    assert parts["optimizer"] == "torch's AdamW"
    assert parts["attention"] == "egrc_mega, torch's scaled dot product, sequence by sequence"
    assert parts["norm"] == "torch's RMSNorm"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(layer_spec, "replaces_megatrons", lambda: True)
    assert (
        parts_in_use("auto")["norm"] == parts_in_use("auto")["rope"] == parts_in_use("auto")["swiglu"] == "egrc_kernels"
    )
    assert "torch's flash attention over packed sequences in bf16" in parts_in_use("auto")["attention"]
    monkeypatch.setattr(layer_spec, "HAVE_TE", True)
    monkeypatch.setattr(layer_spec, "version", lambda name: "2.9")
    assert parts_in_use("auto")["norm"] == "Transformer Engine 2.9"
    assert parts_in_use("auto")["weight gradients"] == "added up inside the product"
