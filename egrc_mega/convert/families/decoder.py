"""What the families share beside their rules: the reading of sizes, and what transformers takes for granted."""

from dataclasses import dataclass
from typing import Any

from egrc_mega.convert.families.rules import HEAD
from egrc_mega.convert.family import Architecture, Rule
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.known_fields import words
from egrc_mega.convert.rope import Rope

MEGATRON_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Fixed in megatron-core's RotaryEmbedding._apply_scaling; only the factor can be chosen."""
MAX_LAYERS, MAX_EXPERTS = 1000, 200_000
"""Experts are counted over all layers. Beyond every model; see `hf_config.MAX_SIZE`."""
SHARED_FIELDS = words(
    "num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_size intermediate_size vocab_size "
    "hidden_act rms_norm_eps tie_word_embeddings rope_theta rope_scaling rope_parameters partial_rotary_factor"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What transformers takes for granted where a config.json of the family is silent, and which fields it knows."""

    model_type: str
    """The family's name in transformers, which config.json must state."""
    key_value_heads: int | None
    """Where `num_key_value_heads` is absent; None: as many as heads."""
    key_value_heads_may_be_null: bool = True
    """Null stands for as many as heads; else transformers refuses it."""
    head_dim: int | None = None
    """Where it is absent; None: hidden size / heads."""
    head_dim_may_be_null: bool = False
    positions: int
    """`max_position_embeddings` where it is absent."""
    eos: int | None = None
    fields: frozenset[str] = frozenset()
    """What a config.json of the family may hold besides sizes, rope and what is harmless."""
    hidden_is_shared_by_heads: bool = False
    """transformers refuses a hidden size that is no multiple of the heads, whatever `head_dim` says."""


def decoder(
    config: HfConfig,
    family: Family,
    rules: tuple[Rule, ...],
    *,
    transformer_fields: dict[str, Any],
    rope: Rope,
    num_experts: int = 0,
    expert_ffn_size: int = 0,
) -> Architecture:
    """The architecture of a decoder whose rules, but for the output layer, are `rules`.

    Raises:
        ModelError: whatever the family or this function found wrong in config.json.
    """
    if config.fields.get("model_type", family.model_type) != family.model_type:
        config.problems.append(
            f"model_type is {config.fields['model_type']!r:.50}, but architectures says {family.model_type!r}"
        )
    config.note("model_type", family.model_type, "model_type")
    config.require(hidden_act="silu")
    heads, groups, head_dim = _heads(config, family)
    sizes = {name: config.size(name) for name in ("hidden_size", "intermediate_size", "vocab_size")}
    layers = config.size("num_hidden_layers", most=MAX_LAYERS)
    if layers * num_experts > MAX_EXPERTS:
        config.problems.append(f"{layers} layers of {num_experts} experts are more than {MAX_EXPERTS} experts")
    positions = config.size("max_position_embeddings", default=family.positions, most=2**31)
    tied, eps = config.flag("tie_word_embeddings", default=False), config.positive("rms_norm_eps", default=1e-6)
    eos, dtype = config.token_ids("eos_token_id", family.eos), config.dtype()
    config.check_fields({*SHARED_FIELDS, *family.fields})
    config.check()
    return Architecture(
        rules=rules if tied else (*rules, HEAD),
        num_layers=layers,
        hidden_size=sizes["hidden_size"],
        ffn_size=sizes["intermediate_size"],
        num_heads=heads,
        num_query_groups=groups,
        head_dim=head_dim,
        vocab_size=sizes["vocab_size"],
        num_experts=num_experts,
        expert_ffn_size=expert_ffn_size,
        tied=tied,
        transformer_fields={
            "num_layers": layers,
            "hidden_size": sizes["hidden_size"],
            "ffn_hidden_size": sizes["intermediate_size"],
            "num_attention_heads": heads,
            "num_query_groups": groups,
            "kv_channels": head_dim,
            "layernorm_epsilon": eps,
            "normalization": "RMSNorm",
            "gated_linear_unit": True,
            "add_bias_linear": False,
            **transformer_fields,
        },
        model_fields={
            "max_sequence_length": positions,
            "share_embeddings_and_output_weights": tied,
            "rotary_base": rope.theta,
            **_scaling(config, rope),
        },
        dtype=dtype,
        eos_token_ids=eos,
        record=config.record,
    )


def _heads(config: HfConfig, family: Family) -> tuple[int, int, int]:
    """(heads, query groups, head size)."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    null = heads if family.key_value_heads_may_be_null else None
    groups = config.size("num_key_value_heads", default=family.key_value_heads or heads, null=null)
    share = max(1, hidden // heads)
    has_own = family.head_dim or config.fields.get("head_dim")
    if hidden % heads and (family.hidden_is_shared_by_heads or not has_own):
        config.problems.append(f"hidden_size is {hidden}, no multiple of num_attention_heads {heads}")
    null = share if family.head_dim_may_be_null else None
    head_dim = config.size("head_dim", default=family.head_dim or share, null=null)
    if heads % groups:
        config.problems.append(f"num_attention_heads is {heads}, no multiple of num_key_value_heads {groups}")
    if head_dim % 2 and not config.problems:
        config.problems.append(f"head_dim is {head_dim}, rope needs an even one")
    return heads, groups, head_dim


def _scaling(config: HfConfig, rope: Rope) -> dict[str, Any]:
    """GPTModel's arguments for rope that is scaled as Llama 3 does it."""
    if rope.type == "default":
        return {}
    for name, value in MEGATRON_SCALING.items():
        if rope.scaling[name] != value:
            config.problems.append(f"rope's {name} is {rope.scaling[name]}, megatron-core has only {value}")
    config.check()
    return {"rope_scaling": True, "rope_scaling_factor": float(rope.scaling["factor"])}
