"""Tiny random folders of every family, made by transformers' own model classes."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Llama": {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False, "max_position_embeddings": 65536},
    "Mistral": {"sliding_window": None, "head_dim": 16, "tie_word_embeddings": False},
    "Qwen3Moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
}
"""transformers' name of a family -> what its tiny model has besides `SIZES`."""


def write_tiny_model(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "5GB",
    **overrides: Any,
) -> Path:
    """Save a random model with biases and norms that are not at their trivial start; returns the folder."""
    config_class, model_class = getattr(transformers, f"{family}Config"), getattr(transformers, f"{family}ForCausalLM")
    generator = torch.Generator().manual_seed(seed)
    model: PreTrainedModel = model_class(config_class(**(SIZES | FAMILIES[family] | overrides)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.15 * noise)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder


def write_tiny_qwen2(folder: Path, **overrides: Any) -> Path:
    """The tiny model of most tests."""
    return write_tiny_model("Qwen2", folder, **overrides)
