"""Finds the family of a Hugging Face folder by the `architectures` of its config.json."""

from collections.abc import Callable
from pathlib import Path

from egrc_mega.convert.families.llama import llama
from egrc_mega.convert.families.mistral import mistral
from egrc_mega.convert.families.qwen2 import qwen2
from egrc_mega.convert.families.qwen3 import qwen3
from egrc_mega.convert.families.qwen3_moe import qwen3_moe
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.errors import ModelError

FAMILIES: dict[str, Callable[[HfConfig], Architecture]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
}


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a Hugging Face folder.

    Raises:
        ModelError: no config.json, a family without a table, or fields that megatron-core cannot express.
    """
    return architecture_of(HfConfig.read(folder))


def architecture_of(config: HfConfig) -> Architecture:
    """The architecture of a config.json; raises as `read_architecture`."""
    names = config.fields.get("architectures") or []
    if len(names) != 1 or names[0] not in FAMILIES:
        raise ModelError(f"{config.path}: architectures is {names}, known are {sorted(FAMILIES)}")
    return FAMILIES[names[0]](config)
