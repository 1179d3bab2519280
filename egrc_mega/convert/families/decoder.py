"""What the families share: the rules of a pre-norm decoder with grouped queries and SwiGLU, and the reading of sizes.

Megatron names are those of its sharded checkpoints, which follow Transformer Engine's fused modules whatever the layer
spec: the norm before a linear layer belongs to that layer.
"""

from typing import Any

from egrc_mega.convert.family import Architecture, Kind, Rule
from egrc_mega.convert.hf_config import HfConfig

LAYER = "decoder.layers.{layer}."
HF_LAYER = "model.layers.{layer}."
SELF_ATTENTION = LAYER + "self_attention."
HF_ATTENTION = HF_LAYER + "self_attn."
HF_MLP = HF_LAYER + "mlp."

EMBEDDING = Rule("embedding.word_embeddings.weight", {"model.embed_tokens.weight": "vocab hidden"}, Kind.VOCAB)
FINAL_NORM = Rule("decoder.final_layernorm.weight", {"model.norm.weight": "hidden"}, Kind.REPLICATED)
HEAD = Rule("output_layer.weight", {"lm_head.weight": "vocab hidden"}, Kind.VOCAB)

ATTENTION = (
    Rule(
        SELF_ATTENTION + "linear_qkv.layer_norm_weight",
        {HF_LAYER + "input_layernorm.weight": "hidden"},
        Kind.REPLICATED,
    ),
    Rule(
        SELF_ATTENTION + "linear_qkv.weight",
        {
            HF_ATTENTION + "q_proj.weight": "query hidden",
            HF_ATTENTION + "k_proj.weight": "key_value hidden",
            HF_ATTENTION + "v_proj.weight": "key_value hidden",
        },
        Kind.QKV,
    ),
    Rule(SELF_ATTENTION + "linear_proj.weight", {HF_ATTENTION + "o_proj.weight": "hidden query"}, Kind.ROW),
)
QKV_BIAS = Rule(
    SELF_ATTENTION + "linear_qkv.bias",
    {
        HF_ATTENTION + "q_proj.bias": "query",
        HF_ATTENTION + "k_proj.bias": "key_value",
        HF_ATTENTION + "v_proj.bias": "key_value",
    },
    Kind.QKV,
)
QK_NORM = (
    Rule(SELF_ATTENTION + "q_layernorm.weight", {HF_ATTENTION + "q_norm.weight": "head_dim"}, Kind.REPLICATED),
    Rule(SELF_ATTENTION + "k_layernorm.weight", {HF_ATTENTION + "k_norm.weight": "head_dim"}, Kind.REPLICATED),
)
MLP = (
    Rule(
        LAYER + "mlp.linear_fc1.layer_norm_weight",
        {HF_LAYER + "post_attention_layernorm.weight": "hidden"},
        Kind.REPLICATED,
    ),
    Rule(
        LAYER + "mlp.linear_fc1.weight",
        {HF_MLP + "gate_proj.weight": "ffn hidden", HF_MLP + "up_proj.weight": "ffn hidden"},
        Kind.GATED,
    ),
    Rule(LAYER + "mlp.linear_fc2.weight", {HF_MLP + "down_proj.weight": "hidden ffn"}, Kind.ROW),
)


def decoder(
    config: HfConfig,
    rules: tuple[Rule, ...],
    *,
    transformer_fields: dict[str, Any],
    model_fields: dict[str, Any] | None = None,
    num_experts: int = 0,
    expert_ffn_size: int = 0,
) -> Architecture:
    """The architecture of a decoder whose rules, but for the output layer, are `rules`.

    Raises:
        ModelError: whatever the family or this function found wrong in config.json.
    """
    config.require(hidden_act="silu", partial_rotary_factor=1.0)
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    groups = config.size("num_key_value_heads", default=heads)
    if heads % groups:
        config.problems.append(f"num_attention_heads is {heads}, no multiple of num_key_value_heads {groups}")
    if not config.fields.get("head_dim") and hidden % heads:
        config.problems.append(f"hidden_size is {hidden}, no multiple of num_attention_heads {heads}")
    head_dim = config.size("head_dim", default=max(1, hidden // heads))
    layers, ffn = config.size("num_hidden_layers"), config.size("intermediate_size")
    vocab, positions = config.size("vocab_size"), config.size("max_position_embeddings")
    tied = bool(config.fields.get("tie_word_embeddings", False))
    config.check()
    return Architecture(
        rules=rules if tied else (*rules, HEAD),
        num_layers=layers,
        hidden_size=hidden,
        ffn_size=ffn,
        num_heads=heads,
        num_query_groups=groups,
        head_dim=head_dim,
        vocab_size=vocab,
        num_experts=num_experts,
        expert_ffn_size=expert_ffn_size,
        tied=tied,
        transformer_fields={
            "num_layers": layers,
            "hidden_size": hidden,
            "ffn_hidden_size": ffn,
            "num_attention_heads": heads,
            "num_query_groups": groups,
            "kv_channels": head_dim,
            "layernorm_epsilon": config.fields.get("rms_norm_eps", 1e-6),
            "normalization": "RMSNorm",
            "gated_linear_unit": True,
            "add_bias_linear": False,
            **transformer_fields,
        },
        model_fields={
            "max_sequence_length": positions,
            "share_embeddings_and_output_weights": tied,
            "rotary_base": config.rope["rope_theta"],
            **(model_fields or {}),
        },
        dtype=config.fields.get("dtype") or config.fields.get("torch_dtype"),
    )
