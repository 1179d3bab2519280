"""The config.json of well-known models by name, so that a layout can be looked at before anything is downloaded.

Values from the models' own pages at huggingface.co (deepseek-ai, Qwen, meta-llama, HuggingFaceTB); a folder's own
config.json always has the last word. What a family takes for granted (see `families`) is left out.
"""

from typing import Any

_R1_QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "num_hidden_layers": 28,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    # Qwen2.5-Math's, not Qwen2.5's 1e6
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}


def _sizes(layers: int, hidden: int, ffn: int, heads: int, groups: int, vocab: int) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocab,
    }


_QWEN2_MATH = _R1_QWEN | {"max_position_embeddings": 4096, "rope_theta": 10000}
_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_QWEN3_VOCAB = 151936
_LLAMA3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_LLAMA3_VOCAB = 128256
_SMOLLM2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "deepseek-r1-distill-qwen-1.5b": _R1_QWEN
    | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "deepseek-r1-distill-qwen-7b": _R1_QWEN
    | {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
    "deepseek-r1-distill-llama-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
    },
    "qwen2.5-math-1.5b": _QWEN2_MATH | _sizes(28, 1536, 8960, 12, 2, 151936) | {"tie_word_embeddings": True},
    "qwen2.5-math-7b": _QWEN2_MATH | _sizes(28, 3584, 18944, 28, 4, 152064),
    "qwen3-0.6b": _QWEN3 | _sizes(28, 1024, 3072, 16, 8, _QWEN3_VOCAB) | {"tie_word_embeddings": True},
    "qwen3-1.7b": _QWEN3 | _sizes(28, 2048, 6144, 16, 8, _QWEN3_VOCAB) | {"tie_word_embeddings": True},
    "qwen3-4b": _QWEN3 | _sizes(36, 2560, 9728, 32, 8, _QWEN3_VOCAB) | {"tie_word_embeddings": True},
    "qwen3-8b": _QWEN3 | _sizes(36, 4096, 12288, 32, 8, _QWEN3_VOCAB),
    "qwen3-14b": _QWEN3 | _sizes(40, 5120, 17408, 40, 8, _QWEN3_VOCAB),
    "qwen3-32b": _QWEN3 | _sizes(64, 5120, 25600, 64, 8, _QWEN3_VOCAB),
    "qwen3-30b-a3b": _QWEN3
    | _sizes(48, 2048, 6144, 32, 4, _QWEN3_VOCAB)
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
    },
    "llama-3.2-1b": _LLAMA3
    | _sizes(16, 2048, 8192, 32, 8, _LLAMA3_VOCAB)
    | {"head_dim": 64, "rope_scaling": _llama3_rope(32.0), "tie_word_embeddings": True},
    "llama-3.2-3b": _LLAMA3
    | _sizes(28, 3072, 8192, 24, 8, _LLAMA3_VOCAB)
    | {"head_dim": 128, "rope_scaling": _llama3_rope(32.0), "tie_word_embeddings": True},
    "llama-3.3-70b": _LLAMA3 | _sizes(80, 8192, 28672, 64, 8, _LLAMA3_VOCAB) | {"rope_scaling": _llama3_rope(8.0)},
    "smollm2-135m": _SMOLLM2 | _sizes(30, 576, 1536, 9, 3, 49152) | {"rope_theta": 100000},
    "smollm2-360m": _SMOLLM2 | _sizes(32, 960, 2560, 15, 5, 49152) | {"rope_theta": 100000},
    "smollm2-1.7b": _SMOLLM2 | _sizes(24, 2048, 8192, 32, 32, 49152) | {"rope_theta": 130000},
}
