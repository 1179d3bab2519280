"""Qwen3 dense: a norm on each head's query and key, no bias, plain rope, head size apart from the hidden size."""

from egrc_mega.convert.families.decoder import ATTENTION, EMBEDDING, FINAL_NORM, MLP, QK_NORM, decoder
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig

RULES = (EMBEDDING, *ATTENTION, *QK_NORM, *MLP, FINAL_NORM)


def qwen3(config: HfConfig) -> Architecture:
    """Architecture from a Qwen3 config.json.

    Raises:
        ModelError: a size is missing, or a field cannot be expressed (attention bias, sliding window, rope scaling).
    """
    config.require(attention_bias=False, use_sliding_window=False)
    config.require_plain_rope()
    return decoder(config, RULES, transformer_fields={"qk_layernorm": True})
