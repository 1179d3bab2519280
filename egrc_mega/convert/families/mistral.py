"""Mistral with full attention (7B from v0.2 on): no bias, plain rope."""

from egrc_mega.convert.families.decoder import Family, decoder
from egrc_mega.convert.families.rules import ATTENTION, EMBEDDING, FINAL_NORM, MLP
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.rope import read_rope
from egrc_mega.convert.windows import DEFAULT_WINDOW

RULES = (EMBEDDING, *ATTENTION, *MLP, FINAL_NORM)
FAMILY = Family(
    model_type="mistral",
    key_value_heads=8,
    key_value_heads_may_be_null=False,
    head_dim_may_be_null=True,
    positions=131072,
    eos=2,
    fields=frozenset({"sliding_window"}),
)


def mistral(config: HfConfig) -> Architecture:
    """Architecture from a Mistral config.json.

    Raises:
        ModelError: a size is missing, attention slides over a window (7B v0.1, and where nothing is said), or rope is
            scaled.
    """
    window = config.fields.get("sliding_window", DEFAULT_WINDOW)
    if window is not None:
        absent = "" if "sliding_window" in config.fields else " in transformers where it is absent"
        config.problems.append(f"sliding_window is {window!r:.50}{absent}; only full attention (null) can be expressed")
    if "layer_types" in config.fields:
        config.problems.append("layer_types is there: transformers takes the model for a Ministral then; delete it")
    return decoder(config, FAMILY, RULES, transformer_fields={}, rope=read_rope(config))
