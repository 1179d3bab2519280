"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: biased QKV, plain rope."""

from egrc_mega.convert.families.decoder import Family, decoder
from egrc_mega.convert.families.rules import ATTENTION, EMBEDDING, FINAL_NORM, MLP, QKV_BIAS
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.rope import read_rope
from egrc_mega.convert.windows import require_full_attention

RULES = (EMBEDDING, *ATTENTION, QKV_BIAS, *MLP, FINAL_NORM)
FAMILY = Family(
    model_type="qwen2",
    key_value_heads=32,
    positions=32768,
    fields=frozenset({"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}),
)


def qwen2(config: HfConfig) -> Architecture:
    """Architecture from a Qwen2 config.json.

    Raises:
        ModelError: a size is missing, or megatron-core cannot express a field (sliding window, rope scaling).
    """
    require_full_attention(config, by_layer=True)
    return decoder(config, FAMILY, RULES, transformer_fields={"add_qkv_bias": True}, rope=read_rope(config))
