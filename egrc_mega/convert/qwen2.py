"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: RMSNorm, biased QKV, grouped queries, SwiGLU, rope."""

from typing import Any

import torch.nn.functional as F

from egrc_mega.convert.family import Architecture, Kind, Rule
from egrc_mega.errors import ModelError

LAYER = "decoder.layers.{layer}."
HF_LAYER = "model.layers.{layer}."
ATTENTION = HF_LAYER + "self_attn."
MLP = HF_LAYER + "mlp."
QKV_WEIGHTS = tuple(ATTENTION + f"{name}_proj.weight" for name in "qkv")
QKV_BIASES = tuple(ATTENTION + f"{name}_proj.bias" for name in "qkv")

RULES = (
    Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Kind.VOCAB),
    Rule(LAYER + "input_layernorm.weight", (HF_LAYER + "input_layernorm.weight",), Kind.REPLICATED),
    Rule(LAYER + "self_attention.linear_qkv.weight", QKV_WEIGHTS, Kind.QKV),
    Rule(LAYER + "self_attention.linear_qkv.bias", QKV_BIASES, Kind.QKV),
    Rule(LAYER + "self_attention.linear_proj.weight", (ATTENTION + "o_proj.weight",), Kind.ROW),
    Rule(LAYER + "pre_mlp_layernorm.weight", (HF_LAYER + "post_attention_layernorm.weight",), Kind.REPLICATED),
    Rule(LAYER + "mlp.linear_fc1.weight", (MLP + "gate_proj.weight", MLP + "up_proj.weight"), Kind.GATED),
    Rule(LAYER + "mlp.linear_fc2.weight", (MLP + "down_proj.weight",), Kind.ROW),
    Rule("decoder.final_layernorm.weight", ("model.norm.weight",), Kind.REPLICATED),
)
UNTIED = Rule("output_layer.weight", ("lm_head.weight",), Kind.VOCAB)


def qwen2(hf: dict[str, Any]) -> Architecture:
    """Architecture from a Qwen2 config.json.

    Raises:
        ModelError: a field megatron-core cannot express (sliding window, rope scaling, another activation).
    """
    _refuse_inexpressible(hf)
    tied = bool(hf.get("tie_word_embeddings", False))
    heads = hf["num_attention_heads"]
    head_dim = hf.get("head_dim") or hf["hidden_size"] // heads
    rope = hf.get("rope_parameters") or {}
    return Architecture(
        rules=RULES if tied else (*RULES, UNTIED),
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_query_groups=hf["num_key_value_heads"],
        head_dim=head_dim,
        vocab_size=hf["vocab_size"],
        transformer_fields={
            "num_layers": hf["num_hidden_layers"],
            "hidden_size": hf["hidden_size"],
            "ffn_hidden_size": hf["intermediate_size"],
            "num_attention_heads": heads,
            "num_query_groups": hf["num_key_value_heads"],
            "kv_channels": head_dim,
            "layernorm_epsilon": hf["rms_norm_eps"],
            "normalization": "RMSNorm",
            "gated_linear_unit": True,
            "activation_func": F.silu,
            "add_bias_linear": False,
            "add_qkv_bias": True,
        },
        model_fields={
            "max_sequence_length": hf["max_position_embeddings"],
            "share_embeddings_and_output_weights": tied,
            "rotary_base": hf.get("rope_theta") or rope.get("rope_theta", 10000),
        },
        dtype=hf.get("dtype") or hf.get("torch_dtype") or "float32",
    )


def _refuse_inexpressible(hf: dict[str, Any]) -> None:
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    problems = {
        "hidden_act": hf.get("hidden_act") != "silu" and hf.get("hidden_act"),
        "use_sliding_window": hf.get("use_sliding_window", False),
        "rope type": rope.get("rope_type", rope.get("type", "default")) != "default" and rope,
    }
    found = [f"{name} = {value}" for name, value in problems.items() if value]
    if found:
        raise ModelError(f"config.json: {'; '.join(found)}: not expressible in this Qwen2 table")
