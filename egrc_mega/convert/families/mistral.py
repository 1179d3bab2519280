"""Mistral with full attention (7B from v0.2 on): no bias, plain rope."""

from egrc_mega.convert.families.decoder import ATTENTION, EMBEDDING, FINAL_NORM, MLP, decoder
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig

RULES = (EMBEDDING, *ATTENTION, *MLP, FINAL_NORM)


def mistral(config: HfConfig) -> Architecture:
    """Architecture from a Mistral config.json.

    Raises:
        ModelError: a size is missing, attention slides over a window (7B v0.1), or rope is scaled.
    """
    window = config.fields.get("sliding_window")
    if window is not None:
        config.problems.append(f"sliding_window is {window}; only full attention (null) can be expressed")
    config.require_plain_rope()
    return decoder(config, RULES, transformer_fields={})
