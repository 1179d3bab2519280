"""Parts of megatron's local layer that our kernels make: norm, SwiGLU, rope. All with float32 between load and store.

Where kernels do not run (`egrc_kernels.registry`), megatron's and torch's own stay in place.
"""

from typing import Any

import torch
from egrc_kernels.registry import uses_triton
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.utils.weak import WeakTensorKeyDictionary


class RMSNorm(torch.nn.RMSNorm):
    """Over the last axis. Takes the place of `megatron.core.transformer.torch_norm.WrappedTorchNorm`, which refuses
    sequence parallelism.

    With it each tensor-parallel rank sees only its tokens: the mark on the weight makes megatron add the ranks'
    gradients.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_unused: Any) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of [..., hidden]."""
        if uses_triton(x):
            assert self.eps is not None
            return rmsnorm(x, self.weight, self.eps)
        return super().forward(x)


class SwiGLU:
    """Activation of megatron's MLP, by the way it has for Transformer Engine's. No module, for it has no state."""

    def __init__(self, config: TransformerConfig) -> None:
        assert config.gated_linear_unit, "SwiGLU is gated"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., 2 F] -> [..., F]."""
        return swiglu(x)


def replaces_megatrons() -> bool:
    """Whether kernels run on this process's device, so that SwiGLU and rope are ours."""
    return uses_triton(torch.empty(0, device="cuda" if torch.cuda.is_available() else "cpu"))


def install_rope() -> None:
    """Give megatron our kernel as its fused rope for packed sequences (`TransformerConfig.apply_rope_fusion`)."""
    rope_utils.fused_apply_rotary_pos_emb_thd = _packed_rope


_ROPE_TABLES: Any = WeakTensorKeyDictionary()
"""Boundaries of a micro-batch -> cosines, sines and positions, for queries and keys of all layers and recomputation.

megatron hands the boundaries to every layer as they are; angles it makes anew for every recomputed layer.
"""


def _packed_rope(
    x_TND: torch.Tensor, cu_seqlens: torch.Tensor, freqs_P11D: torch.Tensor, cp_size: int = 1, cp_rank: int = 0
) -> torch.Tensor:
    """Megatron hands over angles twice, for both halves of a head."""
    table = _ROPE_TABLES.get(cu_seqlens)
    if table is None:
        angles_PE = freqs_P11D[:, 0, 0, : freqs_P11D.shape[-1] // 2].float()
        positions_T = packed_positions(cu_seqlens, x_TND.shape[0], cp_size, cp_rank)
        table = _ROPE_TABLES[cu_seqlens] = (angles_PE.cos(), angles_PE.sin(), positions_T)
    return rope(x_TND, *table)


def packed_positions(cu_seqlens: torch.Tensor, num_tokens: int, cp_size: int = 1, cp_rank: int = 0) -> torch.Tensor:
    """[T] place of each token that this rank holds (see `context`) in its own sequence; no wait for the device."""
    boundaries = cu_seqlens.long()
    lengths = boundaries.diff()

    def per_token(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(lengths // cp_size, output_size=num_tokens)

    local_T = torch.arange(num_tokens, device=cu_seqlens.device) - per_token(boundaries[:-1] // cp_size)
    if cp_size == 1:
        return local_T
    chunk_T = per_token(lengths // (2 * cp_size))
    mirrored_T = per_token(lengths) - (cp_rank + 2) * chunk_T + local_T
    return torch.where(local_T < chunk_T, cp_rank * chunk_T + local_T, mirrored_T)
