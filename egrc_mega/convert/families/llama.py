"""Llama 3.x, DeepSeek-R1-Distill-Llama, SmolLM2: no bias, plain rope or Llama 3's own scaling of it."""

from egrc_mega.convert.families.decoder import Family, decoder
from egrc_mega.convert.families.rules import ATTENTION, EMBEDDING, FINAL_NORM, MLP
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.rope import read_rope

RULES = (EMBEDDING, *ATTENTION, *MLP, FINAL_NORM)
FAMILY = Family(
    model_type="llama",
    key_value_heads=None,
    head_dim_may_be_null=True,
    positions=2048,
    eos=2,
    fields=frozenset({"attention_bias", "mlp_bias", "pretraining_tp"}),
    hidden_is_shared_by_heads=True,
)


def llama(config: HfConfig) -> Architecture:
    """Architecture from a Llama config.json.

    Raises:
        ModelError: a size is missing, a linear layer has a bias, or megatron-core has no such rope scaling.
    """
    config.require(attention_bias=False, mlp_bias=False, pretraining_tp=1, may_be_null=("pretraining_tp",))
    rope = read_rope(config, ("default", "llama3"))
    return decoder(config, FAMILY, RULES, transformer_fields={}, rope=rope)
