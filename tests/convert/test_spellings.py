"""However a config.json spells a model, the record is what transformers makes of it, or the file is refused.

Spellings are drawn: each field absent, null, in its old or new place, in both, equal or contradicting. What is accepted
must be what `AutoConfig` says, and what transformers' model class computes.
"""

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

from egrc_mega.convert.conversion import hf_to_megatron
from egrc_mega.convert.families.registry import FAMILIES, read_architecture
from egrc_mega.convert.family import Architecture
from egrc_mega.errors import ModelError
from egrc_mega.testing.tiny_model import FAMILIES as TINY
from egrc_mega.training.comparison import compare_logits

NUM_SPELLINGS, NUM_COMPUTED = 500, 2
ABSENT = object()
Draw = Callable[[random.Random], Any]

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 40,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def one_of(*values: Any) -> Draw:
    return lambda rng: rng.choice(values)


def mostly(usual: Any, *others: Any) -> Draw:
    """The usual value in four draws of five."""
    return lambda rng: usual if rng.random() < 0.8 else rng.choice(others)


FIELDS: dict[str, Draw] = {
    "num_key_value_heads": mostly(2, ABSENT, None, 4, "2"),
    "head_dim": one_of(ABSENT, ABSENT, 8, 16, None),
    "rms_norm_eps": mostly(1e-5, ABSENT, 1e-6, None, 1),
    "tie_word_embeddings": one_of(ABSENT, True, False),
    "max_position_embeddings": one_of(ABSENT, 512, 8192),
    "hidden_act": one_of(ABSENT, "silu"),
    "use_sliding_window": mostly(ABSENT, False, True, None),
    "sliding_window": one_of(ABSENT, None, None, 8),
    "max_window_layers": mostly(ABSENT, 0, 1, 28),
    "layer_types": mostly(ABSENT, None, ["full_attention"] * 2, ["sliding_attention"] * 2, ["full_attention"]),
    "eos_token_id": one_of(ABSENT, None, 2, [3, 2], []),
    "dtype": one_of(ABSENT, ABSENT, None, "float32", "bfloat16"),
    "torch_dtype": one_of(ABSENT, ABSENT, None, "float32"),
    "attention_bias": mostly(ABSENT, False, True),
    "partial_rotary_factor": mostly(ABSENT, None, 1.0, 0.5),
    "rope_theta": one_of(ABSENT, ABSENT, 10000.0, 50000, 50000.0, None),
}
MOE_FIELDS: dict[str, Draw] = {
    "num_experts": mostly(4, ABSENT),
    "num_local_experts": mostly(ABSENT, 4, 8),
    "num_experts_per_tok": mostly(2, ABSENT),
    "moe_intermediate_size": one_of(24),
    "norm_topk_prob": one_of(ABSENT, True, False),
    "mlp_only_layers": mostly(ABSENT, [], None, [0]),
}


def rope_table(rng: random.Random) -> Any:
    if rng.random() < 0.4:
        return rng.choice((ABSENT, None, {}))
    kind = rng.choice(("default", "default", "llama3", "yarn"))
    table: dict[str, Any] = {rng.choice(("rope_type", "rope_type", "type")): kind}
    if rng.random() < 0.5:
        table["rope_theta"] = rng.choice((10000.0, 50000.0, 50000))
    if kind == "yarn":
        table["factor"] = 4.0
    if kind == "llama3":
        table |= {name: value for name, value in LLAMA3.items() if rng.random() < 0.97}
    return table


def spelling(family: str, rng: random.Random) -> dict[str, Any]:
    draws = FIELDS | (MOE_FIELDS if family == "Qwen3Moe" else {})
    fields: dict[str, Any] = {name: draw(rng) for name, draw in draws.items()}
    fields |= {"rope_parameters": rope_table(rng)}
    fields["rope_scaling"] = rng.choice((ABSENT, ABSENT, None, fields["rope_parameters"], rope_table(rng)))
    model_type = getattr(transformers, f"{family}Config").model_type
    stated = {name: value for name, value in fields.items() if value is not ABSENT}
    return BASE | {"architectures": [f"{family}ForCausalLM"], "model_type": model_type} | stated


def assert_as_transformers(found: Architecture, config: Any) -> None:
    """Every statement that decides what is computed, and the class that computes it."""
    assert config.model_type == found.record["model_type"].value
    rope, fields = config.rope_parameters, found.transformer_fields
    assert found.model_fields["rotary_base"] == rope["rope_theta"]
    assert found.model_fields.get("rope_scaling", False) is (rope["rope_type"] == "llama3")
    if rope["rope_type"] == "llama3":
        assert found.model_fields["rope_scaling_factor"] == rope["factor"]
        assert {name: rope[name] for name in LLAMA3} == LLAMA3 | {"factor": rope["factor"]}
    else:
        assert rope["rope_type"] == "default"
    assert rope.get("partial_rotary_factor", 1.0) == 1.0
    # these two ask for the type of each layer, the others for the window alone
    assert config.model_type in ("qwen2", "qwen3") or getattr(config, "sliding_window", None) is None
    assert set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    assert (fields["layernorm_epsilon"], found.tied) == (config.rms_norm_eps, config.tie_word_embeddings)
    assert (found.num_heads, found.num_query_groups) == (config.num_attention_heads, config.num_key_value_heads)
    assert found.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    assert config.hidden_act == "silu"
    assert not getattr(config, "attention_bias", False) or config.model_type == "qwen2"
    eos = config.eos_token_id
    assert found.eos_token_ids == tuple(sorted(eos if isinstance(eos, list) else [] if eos is None else [eos]))
    assert found.dtype == (None if config.dtype is None else str(config.dtype).removeprefix("torch."))
    if found.num_experts:
        assert (found.num_experts, fields["moe_router_topk"]) == (config.num_experts, config.num_experts_per_tok)
        assert fields["moe_router_pre_softmax"] is not config.norm_topk_prob
        assert config.mlp_only_layers == []


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """The drawn spellings of a family that are accepted, each compared with `AutoConfig`."""

    @functools.cache
    def compare(family: str) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp(family)
        rng, found = random.Random(family), []
        for _ in range(NUM_SPELLINGS):
            fields = spelling(family, rng)
            (folder / "config.json").write_text(json.dumps(fields))
            try:
                architecture = read_architecture(folder)
            except ModelError:
                continue
            try:
                assert_as_transformers(architecture, AutoConfig.from_pretrained(folder))
            except Exception as error:
                raise AssertionError(f"accepted, but not as transformers reads it: {fields}") from error
            found.append(fields)
        return found

    return compare


def test_every_family_of_the_registry_is_drawn() -> None:
    assert {f"{family}ForCausalLM" for family in TINY} == FAMILIES.keys()


@pytest.mark.parametrize("family", TINY)
def test_what_is_accepted_is_what_transformers_reads(family: str, accepted: Callable) -> None:
    kept = accepted(family)
    assert 15 <= len(kept) <= NUM_SPELLINGS - 100
    for name in ("rope_scaling", "rope_parameters", "rope_theta"):
        assert any(fields.get(name) for fields in kept), f"no accepted spelling states {name}"


@pytest.mark.parametrize("family", TINY)
def test_what_is_accepted_is_computed_as_transformers_computes_it(
    family: str, accepted: Callable, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kept = accepted(family)
    is_full = request.config.getoption("--full")
    for number, fields in enumerate(kept if is_full else random.Random(0).sample(kept, NUM_COMPUTED)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(fields))
        torch.manual_seed(number)
        model = getattr(transformers, f"{family}ForCausalLM")(AutoConfig.from_pretrained(folder)).to(torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.15 * torch.randn(parameter.shape))
        model.save_pretrained(folder)
        # transformers has written its own spelling: the drawn one is what is to be read
        (folder / "config.json").write_text(json.dumps(fields | {"dtype": "float32", "torch_dtype": "float32"}))
        hf_to_megatron(folder, tmp_path / f"{number}.megatron")
        found = compare_logits(folder, tmp_path / f"{number}.megatron")
        assert found.are_equal, f"{fields}: {found.line()}"
