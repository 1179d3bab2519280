"""Finds the family of a Hugging Face folder by the `architectures` of its config.json."""

from collections.abc import Callable
from pathlib import Path

from egrc_mega.convert.families import llama, mistral, qwen2, qwen3, qwen3_moe
from egrc_mega.convert.families.decoder import Family
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.errors import ModelError

FAMILIES: dict[str, Callable[[HfConfig], Architecture]] = {
    "LlamaForCausalLM": llama.llama,
    "MistralForCausalLM": mistral.mistral,
    "Qwen2ForCausalLM": qwen2.qwen2,
    "Qwen3ForCausalLM": qwen3.qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe.qwen3_moe,
}

FACTS: tuple[Family, ...] = (llama.FAMILY, mistral.FAMILY, qwen2.FAMILY, qwen3.FAMILY, qwen3_moe.FAMILY)


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a Hugging Face folder.

    Raises:
        ModelError: no config.json, a family without a table, or fields that megatron-core cannot express.
    """
    config = HfConfig.read(folder)
    if not config.fields.get("model_type"):
        config.problems.append("model_type is absent, without it transformers loads no model; state the family's")
    return architecture_of(config)


def architecture_of(config: HfConfig) -> Architecture:
    """The architecture of a config.json; raises as `read_architecture`."""
    names = config.fields.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str) or names[0] not in FAMILIES:
        raise ModelError(f"{config.path}: architectures is {names!r:.120}, known are {sorted(FAMILIES)}")
    config.note("architectures", names[0], "architectures")
    return FAMILIES[names[0]](config)


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Ids that end a response by the folder's config.json, ascending; none where there is no such file.

    Raises:
        ModelError: config.json cannot be read, or states something else than ids.
    """
    if not (folder / "config.json").exists():
        return ()
    config = HfConfig.read(folder)
    default = next((family.eos for family in FACTS if family.model_type == config.fields.get("model_type")), None)
    ids = config.token_ids("eos_token_id", default)
    config.check()
    return ids
