"""The table's tensor arithmetic: joins and shards come apart again bitwise, for odd sizes."""

import pytest
import torch

from egrc_mega.convert import layout
from egrc_mega.convert.family import Kind
from egrc_mega.convert.qwen2 import qwen2

HF = {
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "vocab_size": 41,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
SHAPES = {
    Kind.REPLICATED: [(24,)],
    Kind.VOCAB: [(41, 24)],
    Kind.ROW: [(24, 36)],
    Kind.GATED: [(36, 24), (36, 24)],
    Kind.QKV: [(24, 24), (12, 24), (12, 24)],
}


@pytest.mark.parametrize("tp", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_rule_round_trips_bitwise_at_every_tensor_parallel_size(tp: int, dtype: torch.dtype) -> None:
    architecture = qwen2(HF)
    generator = torch.Generator().manual_seed(0)
    for rule in architecture.expanded_rules():
        shapes = SHAPES[rule.kind]
        if rule.megatron.endswith("linear_qkv.bias"):
            shapes = [shape[:1] for shape in shapes]
        tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
        full = layout.to_megatron(rule, tensors, architecture)
        shards = [layout.shard(rule, full, rank, tp, architecture) for rank in range(tp)]
        if rule.kind is not Kind.REPLICATED:
            assert len({shard.shape for shard in shards}) == 1
        back = layout.to_hf(rule, layout.unshard(rule, shards), architecture)
        assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True)), rule.megatron


def test_a_shard_of_qkv_holds_whole_groups_of_queries_key_and_value() -> None:
    architecture = qwen2(HF)
    rule = next(rule for rule in architecture.expanded_rules() if rule.kind is Kind.QKV)
    q, k, v = (torch.full(shape, value) for shape, value in zip(SHAPES[Kind.QKV], (1.0, 2.0, 3.0), strict=True))
    part = layout.shard(rule, layout.to_megatron(rule, [q, k, v], architecture), 1, 3, architecture)
    assert part[:, 0].tolist() == [1.0] * 8 + [2.0] * 4 + [3.0] * 4


def test_a_shard_of_the_gated_layer_holds_gate_then_up() -> None:
    architecture = qwen2(HF)
    rule = next(rule for rule in architecture.expanded_rules() if rule.kind is Kind.GATED)
    gate, up = torch.zeros(36, 24), torch.ones(36, 24)
    part = layout.shard(rule, layout.to_megatron(rule, [gate, up], architecture), 2, 3, architecture)
    assert part[:, 0].tolist() == [0.0] * 12 + [1.0] * 12


def test_every_hugging_face_name_stands_in_exactly_one_rule() -> None:
    names = [name for rule in qwen2(HF).expanded_rules() for name in rule.hf]
    assert len(names) == len(set(names)) == 3 + 12 * 3
