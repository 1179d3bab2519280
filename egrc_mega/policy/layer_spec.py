"""Which implementation makes each part of a layer: Transformer Engine's where it is, else megatron's and our own."""

from importlib.metadata import version

import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.extensions.transformer_engine import HAVE_TE, TENorm
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.policy.attention import HAVE_VARLEN, PackedAttention
from egrc_mega.policy.kernel_parts import RMSNorm, SwiGLU, replaces_megatrons
from egrc_mega.policy.optimizer import takes_fused_adam


def uses_transformer_engine(transformer_impl: str) -> bool:
    """Whether layers are Transformer Engine's, under `megatron.transformer_impl`."""
    return transformer_impl == "transformer_engine" or (transformer_impl == "auto" and HAVE_TE)


def fuses_weight_gradients() -> bool:
    """Whether products add weight gradients straight into DDP's buffer: not on a CPU, where they round otherwise."""
    return torch.cuda.is_available()


def block_spec(config: TransformerConfig, transformer_impl: str, piece: int | None) -> TransformerBlockSubmodules:
    """The layers of this rank, or of one of its virtual pipeline stages, and the norm after the last one."""
    number = get_num_layers_to_build(config, piece)
    if uses_transformer_engine(transformer_impl):
        layer = get_gpt_layer_with_transformer_engine_spec(config.num_moe_experts, qk_layernorm=config.qk_layernorm)
        return TransformerBlockSubmodules([layer] * number, TENorm)
    return TransformerBlockSubmodules([_local_layer(config)] * number, RMSNorm)


def _local_layer(config: TransformerConfig) -> ModuleSpec:
    """Megatron's local layer spec with our packed attention and norm."""
    layer = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts, normalization=config.normalization, qk_layernorm=config.qk_layernorm
    )
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = RMSNorm
    attention = parts.self_attention.submodules
    attention.core_attention = PackedAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    if config.use_te_activation_func:
        parts.mlp.submodules.activation_func = SwiGLU
    if config.num_moe_experts:
        # megatron-core 0.16 defines the name only where Transformer Engine is, and asks for it everywhere
        vars(moe_utils).setdefault("te_general_gemm", None)
        # before experts Transformer Engine's spec keeps the norm apart; checkpoints should have that spec's names
        parts.sharded_state_dict_keys_map.pop("pre_mlp_layernorm.")
    return layer


def parts_in_use(transformer_impl: str, fused_output_layer: bool = False) -> dict[str, str]:
    """Purpose -> what does it on this machine, for `egrc doctor` and the run's log."""
    adam = megatron_optimizer.Adam.__module__.partition(".")[0]
    if uses_transformer_engine(transformer_impl):
        layers = dict.fromkeys(("linear", "attention", "norm"), f"Transformer Engine {version('transformer-engine')}")
    else:
        flash = "torch's flash attention over packed sequences in bf16, else " if _has_flash() else ""
        layers = {
            "linear": "megatron-core",
            "attention": f"egrc_mega, {flash}torch's scaled dot product, sequence by sequence",
            "norm": "egrc_kernels" if replaces_megatrons() else "torch's RMSNorm",
            "rope": "egrc_kernels" if replaces_megatrons() else "megatron-core",
            "swiglu": "egrc_kernels" if replaces_megatrons() else "megatron-core",
        }
    return layers | {
        "weight gradients": f"added up {'inside' if fuses_weight_gradients() else 'after'} the product",
        "log-probs and loss": f"egrc_kernels, {_which_kernels(fused_output_layer)}",
        "optimizer": {"transformer_engine": "Transformer Engine's FusedAdam", "apex": "apex's FusedAdam"}.get(
            adam, "torch's AdamW" + (", fused" if takes_fused_adam() else "")
        ),
    }


def _which_kernels(fused_output_layer: bool) -> str:
    if not torch.cuda.is_available():
        return "PyTorch references"
    kernels = "Triton" if replaces_megatrons() else "PyTorch references"
    if fused_output_layer:
        return f"{kernels}, no logits in memory in 16 bits"
    return f"{kernels}, a token loss's gradient made in the forward pass"


def _has_flash() -> bool:
    return HAVE_VARLEN and torch.cuda.is_available()
