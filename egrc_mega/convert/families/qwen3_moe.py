"""Qwen3-MoE: Qwen3's attention, experts in every layer, the router's weights normalised over the chosen experts."""

from egrc_mega.convert.families.decoder import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    HF_LAYER,
    HF_MLP,
    LAYER,
    QK_NORM,
    decoder,
)
from egrc_mega.convert.family import Architecture, Kind, Rule
from egrc_mega.convert.hf_config import HfConfig

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


def qwen3_moe(config: HfConfig) -> Architecture:
    """Architecture from a Qwen3-MoE config.json.

    Raises:
        ModelError: a size is missing, some layers are dense, or the table cannot express a field.
    """
    config.require(attention_bias=False, use_sliding_window=False, decoder_sparse_step=1, mlp_only_layers=[])
    config.require_plain_rope()
    experts, ffn = config.size("num_experts", "num_local_experts"), config.size("moe_intermediate_size")
    chosen = config.size("num_experts_per_tok")
    if chosen > experts:
        config.problems.append(f"num_experts_per_tok is {chosen}, of {experts} experts")
    fields = {
        "qk_layernorm": True,
        "num_moe_experts": experts,
        "moe_ffn_hidden_size": ffn,
        "moe_router_topk": chosen,
        # softmax over the chosen logits is the softmax over all of them, normalised over the chosen
        "moe_router_pre_softmax": not config.fields.get("norm_topk_prob", False),
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
    }
    return decoder(config, RULES, transformer_fields=fields, num_experts=experts, expert_ffn_size=ffn)
