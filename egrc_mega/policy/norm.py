"""RMSNorm for the local layer spec: megatron's own stand-in refuses sequence parallelism."""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class RMSNorm(torch.nn.RMSNorm):
    """Over the last axis, in fp32 inside. Takes the place of `megatron.core.transformer.torch_norm.WrappedTorchNorm`.

    With sequence parallelism each tensor-parallel rank sees only its tokens: the mark on the weight makes megatron add
    the ranks' gradients.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_unused: Any) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
