"""The rules that families share: a pre-norm decoder with grouped queries and SwiGLU.

Megatron names are those of its sharded checkpoints, which follow Transformer Engine's fused modules whatever the layer
spec: the norm before a linear layer belongs to that layer.
"""

from egrc_mega.convert.family import Kind, Rule

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
