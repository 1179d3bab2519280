"""Llama 3.x and DeepSeek-R1-Distill-Llama: no bias, plain rope or Llama 3's own scaling of it."""

from typing import Any

from egrc_mega.convert.families.decoder import ATTENTION, EMBEDDING, FINAL_NORM, MLP, decoder
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig

RULES = (EMBEDDING, *ATTENTION, *MLP, FINAL_NORM)
MEGATRON_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Fixed in megatron-core's RotaryEmbedding._apply_scaling; only the factor can be chosen."""


def llama(config: HfConfig) -> Architecture:
    """Architecture from a Llama config.json.

    Raises:
        ModelError: a size is missing, a linear layer has a bias, or megatron-core has no such rope scaling.
    """
    config.require(attention_bias=False, mlp_bias=False, pretraining_tp=1)
    return decoder(config, RULES, transformer_fields={}, model_fields=_rope_scaling(config))


def _rope_scaling(config: HfConfig) -> dict[str, Any]:
    rope = config.rope
    if rope["rope_type"] != "llama3":
        config.require_plain_rope()
        return {}
    for name, value in MEGATRON_SCALING.items():
        if rope.get(name) != value:
            config.problems.append(f"rope's {name} is {rope.get(name)}, megatron-core has only {value}")
    return {"rope_scaling": True, "rope_scaling_factor": float(rope.get("factor", 8.0))}
