"""config.json is read once, as transformers reads it, and refused where it contradicts itself or says the unknown."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from egrc_mega.convert.families.registry import FACTS, FAMILIES, architecture_of, eos_token_ids, read_architecture
from egrc_mega.convert.hf_config import ABSENT, HfConfig
from egrc_mega.convert.windows import DEFAULT_FIRST, DEFAULT_WINDOW
from egrc_mega.errors import ModelError
from egrc_mega.testing.tiny_model import LLAMA3_ROPE, write_tiny_model

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
OLD_LLAMA3 = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}

QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 256,
}
LLAMA = QWEN2 | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 65536}
MISTRAL = QWEN2 | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
MOE = QWEN2 | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 4}
MOE |= {"num_experts_per_tok": 2, "moe_intermediate_size": 24}


def read(fields: dict[str, Any]) -> Any:
    return architecture_of(HfConfig(dict(fields)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (QWEN2 | {"rope_parameters": PLAIN, "rope_scaling": YARN}, "rope_scaling: rope type is 'yarn'"),
        (
            QWEN2 | {"rope_parameters": PLAIN, "rope_theta": 1e6},
            "rope_theta is 1000000.0, but rope_parameters says 10000.0; transformers obeys the latter",
        ),
        (
            LLAMA | {"rope_parameters": PLAIN | {"rope_theta": 500000.0}, "rope_scaling": LLAMA3_ROPE},
            "tell two ropes, llama3 with theta 500000 .* and default with theta 500000; transformers obeys",
        ),
        # without a theta of its own, rope_scaling has the default, whatever rope_parameters says
        (LLAMA | {"rope_parameters": LLAMA3_ROPE, "rope_scaling": OLD_LLAMA3}, "llama3 with theta 10000"),
        (QWEN2 | {"rope_scaling": {"rope_type": "default", "type": "yarn"}}, "rope_type 'default' and type 'yarn'"),
        (MISTRAL | {"sliding_window": 4096}, "sliding_window is 4096; only full attention"),
        ({k: v for k, v in MISTRAL.items() if k != "sliding_window"}, "4096 in transformers where it is absent"),
        (QWEN2 | {"model_type": "qwen3"}, "model_type is 'qwen3', but architectures says 'qwen2'"),
        (QWEN2 | {"dtype": "float16", "torch_dtype": "bfloat16"}, "dtype is 'float16', torch_dtype is 'bfloat16'"),
        (MOE | {"num_local_experts": 8}, "num_experts is 4 and num_local_experts is 8; state it once"),
    ],
)
def test_two_unequal_statements_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(fields)


def test_equal_statements_in_two_places_are_read_with_the_place_that_counts() -> None:
    twice = LLAMA | {"rope_parameters": LLAMA3_ROPE, "rope_scaling": OLD_LLAMA3, "rope_theta": 500000}
    found = read(twice)
    assert found.model_fields["rotary_base"] == 500000.0
    assert found.model_fields["rope_scaling_factor"] == 8.0
    record = read(QWEN2 | {"rope_parameters": PLAIN, "rope_scaling": PLAIN, "rope_theta": 10000}).record
    assert (record["rope_theta"].value, record["rope_theta"].origin) == (10000.0, "rope_scaling.rope_theta")
    assert record["rope_type"].origin == "rope_scaling"


def test_a_mistral_with_layer_types_is_another_model_for_transformers() -> None:
    for types in (None, ["full_attention"] * 2):
        with pytest.raises(ModelError, match="layer_types is there: transformers takes the model for a Ministral"):
            read(MISTRAL | {"layer_types": types})


def test_experts_layers_slide_all_or_none_whatever_else_is_told() -> None:
    window = {"use_sliding_window": True, "max_window_layers": 99}
    with pytest.raises(ModelError, match="layers 0 to 1 slide over a window of 8 tokens"):
        read(MOE | window | {"sliding_window": 8})
    assert read(MOE | window | {"sliding_window": None}).num_experts == 4


def test_every_value_on_the_record_says_where_it_comes_from() -> None:
    record = read(QWEN2 | {"rope_theta": 1e6, "torch_dtype": "bfloat16"}).record
    assert {name: record[name].origin for name in ("rope_theta", "dtype", "hidden_size", "rms_norm_eps")} == {
        "rope_theta": "rope_theta",
        "dtype": "torch_dtype",
        "hidden_size": "hidden_size",
        "rms_norm_eps": ABSENT,
    }


@pytest.mark.parametrize("family", FACTS, ids=lambda family: family.model_type)
def test_what_is_absent_is_the_default_of_transformers(family: Any) -> None:
    names = {config.model_type: config for config in map(type, _default_configs())}
    default = names[family.model_type]()
    heads = default.num_attention_heads
    share = default.hidden_size // heads
    assert (family.key_value_heads or heads) == default.num_key_value_heads
    assert (family.head_dim or share) == getattr(default, "head_dim", share)
    assert family.positions == default.max_position_embeddings
    assert family.eos == default.eos_token_id
    assert (default.rms_norm_eps, default.tie_word_embeddings, default.hidden_act) == (1e-6, False, "silu")
    assert default.rope_parameters == PLAIN
    if family.model_type == "mistral":
        assert default.sliding_window == DEFAULT_WINDOW
    if family.model_type in ("qwen2", "qwen3", "qwen3_moe"):
        switched_on = names[family.model_type](use_sliding_window=True)
        assert switched_on.sliding_window == DEFAULT_WINDOW
        assert getattr(switched_on, "max_window_layers", DEFAULT_FIRST) == DEFAULT_FIRST
    if family.model_type == "qwen3_moe":
        found = read({k: v for k, v in MOE.items() if "expert" not in k and not k.startswith("moe")}).transformer_fields
        assert found["num_moe_experts"] == default.num_experts
        assert found["moe_router_topk"] == default.num_experts_per_tok
        assert found["moe_ffn_hidden_size"] == default.moe_intermediate_size
        assert found["moe_router_pre_softmax"] is not default.norm_topk_prob


def _default_configs() -> list[Any]:
    return [getattr(transformers, f"{name.removesuffix('ForCausalLM')}Config")() for name in FAMILIES]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantization_config is there: .* delete it",
        ),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights is there: transformers loads the file"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, which is not understood"),
        ({"use_mrope": True}, "use_mrope is True, which is not understood"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, "layers 0 to 1 slide over .* of 8"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "layers 1 to 1 slide over a window of 4096 tokens"),
        ({"use_sliding_window": True, "num_hidden_layers": 30}, "layers 28 to 29 slide"),
        ({"use_sliding_window": None}, "use_sliding_window is None, must be true or false"),
        ({"sliding_window": "4096"}, "sliding_window is '4096', must be a whole number"),
        ({"max_window_layers": None}, "max_window_layers is None, must be a whole number"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        ({"layer_types": ["full_attention"]}, "layer_types is"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"full_attention": PLAIN}}, "rope_parameters: full_attention is not understood"),
        ({"rope_parameters": PLAIN | {"factor": 2.0}}, "factor is not understood with rope type 'default'"),
    ],
)
def test_what_may_change_the_computation_is_understood_or_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(QWEN2 | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_mrope": False, "max_window_layers": 21, "sliding_window": 4096, "use_sliding_window": False},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {"use_sliding_window": True, "max_window_layers": 2},
        {"use_sliding_window": True},
        {"quantization_config": None, "layer_types": ["attention", "full_attention"], "weird": None},
        {"temperature": 0.7, "_name_or_path": "x", "auto_map": {"AutoConfig": "x.Y"}, "unsloth_version": "2025.1"},
        {"num_key_value_heads": None},
    ],
)
def test_what_changes_nothing_is_let_through(fields: dict) -> None:
    assert read(QWEN2 | fields).num_layers == 2


@pytest.mark.parametrize("value", ["1e-6", 1, None, True, -1e-6, float("nan"), [1e-6], {}])
def test_a_number_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"rms_norm_eps is .*, must be a positive number"):
        read(QWEN2 | {"rms_norm_eps": value})


@pytest.mark.parametrize("value", ["10000", None, 0, -1.0, True, float("inf"), [1]])
def test_a_theta_of_another_type_is_refused(value: Any) -> None:
    for fields in ({"rope_theta": value}, {"rope_parameters": {"rope_theta": value}}):
        with pytest.raises(ModelError, match=r"rope_theta is .*, must be a positive number"):
            read(QWEN2 | fields)


@pytest.mark.parametrize("size", [10**7, 10**9, 10**30])
def test_sizes_beyond_every_model_are_refused_at_once(size: int) -> None:
    for fields, name in ((QWEN2, "num_hidden_layers"), (MOE, "num_experts"), (QWEN2, "vocab_size")):
        with pytest.raises(ModelError, match=f"{name} is 10*, must be a positive whole number of at most"):
            read(fields | {name: size * 10})
    with pytest.raises(ModelError, match="1000 layers of 4096 experts"):
        read(MOE | {"num_hidden_layers": 1000, "num_experts": 4096})


@pytest.mark.parametrize(
    ("eos", "expected"), [([5, 2, 3], (2, 3, 5)), (7, (7,)), (None, ()), ([], ()), ("absent", (2,))]
)
def test_the_ends_of_a_response_may_be_one_several_or_none(eos: Any, expected: tuple, tmp_path: Path) -> None:
    fields = LLAMA | ({} if eos == "absent" else {"eos_token_id": eos})
    assert read(fields).eos_token_ids == expected
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert eos_token_ids(tmp_path) == expected


@pytest.mark.parametrize("eos", ["2", 2.0, True, [2, "3"], {"a": 1}])
def test_ends_of_another_type_are_refused(eos: Any) -> None:
    with pytest.raises(ModelError, match="eos_token_id is"):
        read(QWEN2 | {"eos_token_id": eos})


def test_a_folder_without_model_type_is_refused_for_transformers_cannot_load_it(tmp_path: Path) -> None:
    folder = write_tiny_model("Qwen2", tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text())
    del fields["model_type"]
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="model_type is absent"):
        read_architecture(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"vocab_size": 1, "vocab_size": 2}', "states 'vocab_size' twice"),
        ("9" * 5000, "config.json"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_file_that_is_no_config_ends_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message) as error:
        read_architecture(tmp_path)
    assert "\n" not in str(error.value)
