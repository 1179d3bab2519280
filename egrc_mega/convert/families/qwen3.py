"""Qwen3 dense: a norm on each head's query and key, no bias, plain rope, head size apart from the hidden size."""

from egrc_mega.convert.families.decoder import Family, decoder
from egrc_mega.convert.families.rules import ATTENTION, EMBEDDING, FINAL_NORM, MLP, QK_NORM
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.rope import read_rope
from egrc_mega.convert.windows import require_full_attention

RULES = (EMBEDDING, *ATTENTION, *QK_NORM, *MLP, FINAL_NORM)
FAMILY = Family(
    model_type="qwen3",
    key_value_heads=32,
    head_dim=128,
    positions=32768,
    fields=frozenset({"attention_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}),
)


def qwen3(config: HfConfig) -> Architecture:
    """Architecture from a Qwen3 config.json.

    Raises:
        ModelError: a size is missing, or a field cannot be expressed (attention bias, sliding window, rope scaling).
    """
    config.require(attention_bias=False)
    require_full_attention(config, by_layer=True)
    return decoder(config, FAMILY, RULES, transformer_fields={"qk_layernorm": True}, rope=read_rope(config))
