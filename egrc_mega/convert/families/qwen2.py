"""Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen: biased QKV, plain rope."""

from egrc_mega.convert.families.decoder import ATTENTION, EMBEDDING, FINAL_NORM, MLP, QKV_BIAS, decoder
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig

RULES = (EMBEDDING, *ATTENTION, QKV_BIAS, *MLP, FINAL_NORM)


def qwen2(config: HfConfig) -> Architecture:
    """Architecture from a Qwen2 config.json.

    Raises:
        ModelError: a size is missing, or megatron-core cannot express a field (sliding window, rope scaling).
    """
    config.require(use_sliding_window=False)
    config.require_plain_rope()
    return decoder(config, RULES, transformer_fields={"add_qkv_bias": True})
