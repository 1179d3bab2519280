"""The table's tensor arithmetic: joins and shards come apart again bitwise, for odd sizes."""

import pytest
import torch

from egrc_mega.convert import layout
from egrc_mega.convert.families.registry import FAMILIES
from egrc_mega.convert.family import Architecture, Kind
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.parallel import rank_shape

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "head_dim": 4,
    "vocab_size": 41,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}
OWN = {
    "MistralForCausalLM": {"sliding_window": None},
    "Qwen3MoeForCausalLM": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
}
GROUPS_AND_SIZES = [(3, 1), (3, 3), (4, 1), (4, 2), (4, 4), (2, 4)]


def architecture_of(family: str, groups: int = 3, **changes: object) -> Architecture:
    return FAMILIES[family](HfConfig(SIZES | OWN.get(family, {}) | {"num_key_value_heads": groups} | changes))


@pytest.mark.parametrize(("groups", "tp"), GROUPS_AND_SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_round_trips_bitwise_at_every_tensor_parallel_size(family: str, groups: int, tp: int) -> None:
    architecture = architecture_of(family, groups)
    generator = torch.Generator().manual_seed(0)
    for entry in architecture.entries():
        tensors = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in entry.shapes]
        full = layout.to_megatron(entry, tensors, architecture)
        assert tuple(full.shape) == entry.shape
        shards = [layout.shard(entry, full, rank, tp, architecture) for rank in range(tp)]
        assert {tuple(shard.shape) for shard in shards} == {rank_shape(entry, architecture, tp)}
        back = layout.to_hf(entry, layout.unshard(entry, shards), architecture)
        assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True)), entry.name


def test_a_shard_of_qkv_holds_whole_groups_of_queries_key_and_value() -> None:
    architecture = architecture_of("Qwen2ForCausalLM")
    entry = next(entry for entry in architecture.entries() if entry.kind is Kind.QKV)
    q, k, v = (torch.full(shape, value) for shape, value in zip(entry.shapes, (1.0, 2.0, 3.0), strict=True))
    part = layout.shard(entry, layout.to_megatron(entry, [q, k, v], architecture), 1, 3, architecture)
    assert part[:, 0].tolist() == [1.0] * 16 + [2.0] * 4 + [3.0] * 4


def test_a_shard_of_the_gated_layer_holds_gate_then_up() -> None:
    architecture = architecture_of("Qwen2ForCausalLM")
    entry = next(entry for entry in architecture.entries() if entry.kind is Kind.GATED)
    gate, up = torch.zeros(36, 24), torch.ones(36, 24)
    part = layout.shard(entry, layout.to_megatron(entry, [gate, up], architecture), 2, 3, architecture)
    assert part[:, 0].tolist() == [0.0] * 12 + [1.0] * 12


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_name_stands_in_exactly_one_rule(family: str, tied: bool) -> None:
    architecture = architecture_of(family, tie_word_embeddings=tied)
    names = [name for entry in architecture.entries() for name in entry.hf]
    assert len(names) == len(set(names))
    assert ("lm_head.weight" in names) is not tied
    megatron = [entry.name for entry in architecture.entries()]
    assert len(megatron) == len(set(megatron))
