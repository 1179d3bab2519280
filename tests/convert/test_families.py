"""Families: transformers' own weights fit the tables, and a config.json that megatron cannot express is refused."""

import json
from pathlib import Path

import pytest

from egrc_mega.convert.families.registry import FAMILIES, architecture_of, read_architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.inspect import inspect
from egrc_mega.convert.parallel import ParallelLayout
from egrc_mega.convert.presets import PRESETS
from egrc_mega.convert.proof import hf_problems, table_problems
from egrc_mega.errors import ModelError
from egrc_mega.testing import tiny_model
from egrc_mega.testing.tiny_model import write_tiny_model


@pytest.mark.parametrize("family", tiny_model.FAMILIES)
def test_the_table_is_what_transformers_saves(family: str, tmp_path: Path) -> None:
    folder = write_tiny_model(family, tmp_path / "model", vocab_size=41)
    architecture = read_architecture(folder)
    assert list(table_problems(architecture)) == []
    assert list(hf_problems(architecture, HfReader(folder).infos, any_dtype=False)) == []


def test_every_family_of_the_registry_has_a_tiny_model() -> None:
    assert {f"{family}ForCausalLM" for family in tiny_model.FAMILIES} == FAMILIES.keys()


def test_a_family_fits_into_a_short_file(root: Path) -> None:
    for file in (root / "egrc_mega/convert/families").glob("*.py"):
        assert len(file.read_text().splitlines()) < 150, file


WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("Qwen2", {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("Qwen2", {"architectures": None}, "architectures is"),
        ("Qwen2", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("Qwen2", WINDOW, "use_sliding_window is True"),
        ("Qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope type is 'yarn'"),
        ("Qwen2", {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope type is 'linear'"),
        ("Qwen2", {"num_hidden_layers": None}, "num_hidden_layers is None, must be a positive whole number"),
        ("Qwen2", {"vocab_size": -1}, "vocab_size is -1"),
        ("Qwen2", {"num_key_value_heads": 3}, "num_attention_heads is 4, no multiple of num_key_value_heads 3"),
        ("Qwen2", {"num_attention_heads": 6}, "hidden_size is 32, no multiple of num_attention_heads 6"),
        ("Qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("Llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("Llama", {"rope_parameters": tiny_model.LLAMA3_ROPE | {"low_freq_factor": 2.0}}, "low_freq_factor is 2.0"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope type is 'dynamic'"),
        ("Mistral", {"sliding_window": 4096}, "sliding_window is 4096"),
        ("Qwen3Moe", {"mlp_only_layers": [0]}, "mlp_only_layers is"),
        ("Qwen3Moe", {"num_experts_per_tok": 9}, "num_experts_per_tok is 9, of 4 experts"),
    ],
)
def test_a_config_that_cannot_be_expressed_is_refused(tmp_path: Path, family: str, change: dict, message: str) -> None:
    folder = write_tiny_model(family, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        read_architecture(folder)


def test_all_problems_of_a_config_are_told_at_once() -> None:
    with pytest.raises(ModelError) as error:
        architecture_of(HfConfig({"architectures": ["Qwen2ForCausalLM"], "hidden_act": "gelu", "hidden_size": 8}))
    assert str(error.value).count("\n") >= 4


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json"):
        read_architecture(tmp_path)


def test_rope_theta_is_found_in_old_and_new_configs(tmp_path: Path) -> None:
    folder = write_tiny_model("Qwen2", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5e5
    (folder / "config.json").write_text(json.dumps(config))
    assert read_architecture(folder).model_fields["rotary_base"] == 5e5
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 1e6}))
    assert read_architecture(folder).model_fields["rotary_base"] == 1e6


@pytest.mark.parametrize(
    ("preset", "parameters", "theta"),
    [
        ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000, 10000),
        ("deepseek-r1-distill-qwen-7b", 7_615_616_512, 10000),
        ("deepseek-r1-distill-llama-8b", 8_030_261_248, 500000.0),
        ("qwen2.5-math-1.5b", 1_543_714_304, 10000),
        ("qwen2.5-math-7b", 7_615_616_512, 10000),
        ("qwen3-0.6b", 596_049_920, 1000000),
        ("qwen3-1.7b", 1_720_574_976, 1000000),
        ("qwen3-4b", 4_022_468_096, 1000000),
        ("qwen3-8b", 8_190_735_360, 1000000),
        ("qwen3-14b", 14_768_307_200, 1000000),
        ("qwen3-32b", 32_762_123_264, 1000000),
        ("qwen3-30b-a3b", 30_532_122_624, 1000000),
        ("llama-3.2-1b", 1_235_814_400, 500000.0),
        ("llama-3.2-3b", 3_212_749_824, 500000.0),
        ("llama-3.3-70b", 70_553_706_496, 500000.0),
        ("smollm2-135m", 134_515_008, 100000),
        ("smollm2-360m", 361_821_120, 100000),
        ("smollm2-1.7b", 1_711_376_384, 130000),
    ],
)
def test_a_preset_has_its_models_published_size_and_rope(preset: str, parameters: int, theta: float) -> None:
    architecture = architecture_of(HfConfig(dict(PRESETS[preset]), preset))
    assert architecture.model_fields["rotary_base"] == theta
    assert architecture.tied is PRESETS[preset]["tie_word_embeddings"]
    assert f"{parameters:,} parameters, bfloat16" in inspect(preset, ParallelLayout())


def test_the_page_says_where_each_statement_stands() -> None:
    page = inspect("llama-3.2-1b", ParallelLayout())
    assert "  rope_theta = 500000.0 (rope_theta)\n" in page
    assert "  rope.factor = 32.0 (rope_scaling.factor)\n" in page
    assert "  hidden_act = 'silu' (transformers' default)\n" in page


def test_two_query_groups_spread_over_four_tensor_ranks() -> None:
    page = inspect("deepseek-r1-distill-qwen-1.5b", ParallelLayout(4, 2))
    assert "[2048, 1536]    [512, 1536]" in page
    assert "stage 1, layers 14 to 27" in page
