"""Qwen3-MoE: Qwen3's attention, experts in every layer, the router's weights normalised over the chosen experts."""

from egrc_mega.convert.families.decoder import MAX_EXPERTS, Family, decoder
from egrc_mega.convert.families.rules import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HF_LAYER,
    HF_MLP,
    LAYER,
    QK_NORM,
)
from egrc_mega.convert.family import Architecture, Kind, Rule
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.known_fields import words
from egrc_mega.convert.rope import read_rope
from egrc_mega.convert.windows import require_full_attention

EXPERT = LAYER + "mlp.experts.experts.{expert}."
HF_EXPERT = HF_MLP + "experts.{expert}."
EXPERTS = (
    Rule(LAYER + "pre_mlp_layernorm.weight", {HF_LAYER + "post_attention_layernorm.weight": "hidden"}, Kind.REPLICATED),
    Rule(LAYER + "mlp.router.weight", {HF_MLP + "gate.weight": "experts hidden"}, Kind.REPLICATED),
    Rule(
        EXPERT + "linear_fc1.weight",
        {HF_EXPERT + "gate_proj.weight": "expert_ffn hidden", HF_EXPERT + "up_proj.weight": "expert_ffn hidden"},
        Kind.GATED,
    ),
    Rule(EXPERT + "linear_fc2.weight", {HF_EXPERT + "down_proj.weight": "hidden expert_ffn"}, Kind.ROW),
)
RULES = (EMBEDDING, *ATTENTION, *QK_NORM, *EXPERTS, FINAL_NORM)


FAMILY = Family(
    model_type="qwen3_moe",
    key_value_heads=4,
    key_value_heads_may_be_null=False,
    positions=32768,
    fields=words(
        "attention_bias use_sliding_window sliding_window max_window_layers layer_types decoder_sparse_step "
        "mlp_only_layers moe_intermediate_size num_experts_per_tok num_experts num_local_experts norm_topk_prob"
    ),
)


def qwen3_moe(config: HfConfig) -> Architecture:
    """Architecture from a Qwen3-MoE config.json.

    Raises:
        ModelError: a size is missing, some layers are dense, or the table cannot express a field.
    """
    config.require(attention_bias=False, decoder_sparse_step=1, mlp_only_layers=[], may_be_null=("mlp_only_layers",))
    require_full_attention(config, by_layer=False)
    experts = config.size("num_experts", "num_local_experts", default=128, most=MAX_EXPERTS)
    ffn = config.size("moe_intermediate_size", default=768)
    chosen = config.size("num_experts_per_tok", default=8)
    if chosen > experts:
        config.problems.append(f"num_experts_per_tok is {chosen}, of {experts} experts")
    fields = {
        "qk_layernorm": True,
        "num_moe_experts": experts,
        "moe_ffn_hidden_size": ffn,
        "moe_router_topk": chosen,
        # softmax over the chosen logits is the softmax over all of them, normalised over the chosen
        "moe_router_pre_softmax": not config.flag("norm_topk_prob", default=False),
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
    }
    rope = read_rope(config)
    return decoder(
        config, FAMILY, RULES, transformer_fields=fields, rope=rope, num_experts=experts, expert_ffn_size=ffn
    )
