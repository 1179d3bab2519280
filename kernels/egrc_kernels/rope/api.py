"""The public entry of the op: checks, torch's view of it, autograd."""

from typing import Any

import torch

from egrc_kernels.registry import uses_triton
from egrc_kernels.rope import reference


def rope(x_TND: torch.Tensor, cos_PE: torch.Tensor, sin_PE: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of packed tokens, halves rotated (GPT-NeoX's order); float32 between load and store.

    Args:
        x_TND: [T, heads, D], float32, bfloat16 or float16; the last axis contiguous.
        cos_PE: [P, E] float32, cosine of each position's angles; 2 E <= D, what is beyond stays as it is.
        sin_PE: [P, E] float32.
        positions_T: [T] int64, each token's position in its own sequence, below P.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if x_TND.dim() != 3 or positions_T.shape != x_TND.shape[:1]:
        shapes = f"{tuple(x_TND.shape)} and {tuple(positions_T.shape)}"
        raise ValueError(f"x_TND must be [T, heads, D] and positions_T [T], got {shapes}")
    if cos_PE.shape != sin_PE.shape or cos_PE.dim() != 2 or 2 * cos_PE.shape[1] > x_TND.shape[2]:
        raise ValueError(f"cos_PE and sin_PE must be [P, E], 2 E <= {x_TND.shape[2]}, got {tuple(cos_PE.shape)}")
    if x_TND.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x_TND must be float32, bfloat16 or float16, got {x_TND.dtype}")
    if (cos_PE.dtype, sin_PE.dtype, positions_T.dtype) != (torch.float32, torch.float32, torch.int64):
        raise ValueError("cos_PE and sin_PE must be float32, positions_T int64")
    if len({x_TND.device, cos_PE.device, sin_PE.device, positions_T.device}) > 1:
        raise ValueError("x_TND, cos_PE, sin_PE and positions_T must be on one device")
    x_TND = x_TND if x_TND.stride(2) == 1 else x_TND.contiguous()
    y_TND: torch.Tensor = _Rope.apply(x_TND, cos_PE.contiguous(), sin_PE.contiguous(), positions_T)
    return y_TND


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TND: torch.Tensor, cos_PE: torch.Tensor, sin_PE: torch.Tensor, positions_T: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(cos_PE, sin_PE, positions_T)
        return _turn(x_TND, cos_PE, sin_PE, positions_T, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_TND = grads[0] if grads[0].stride(2) == 1 else grads[0].contiguous()
        return _turn(grad_TND, *ctx.saved_tensors, -1.0), None, None, None


@torch.library.custom_op("egrc::rope", mutates_args=())
def _turn(
    x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, positions: torch.Tensor, sign: float
) -> torch.Tensor:
    if uses_triton(x):
        from egrc_kernels.rope import triton

        return triton.rope(x, cosines, sines, positions, sign)
    return reference.rope(x, cosines, sines, positions, sign)


@_turn.register_fake
def _(
    x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, positions: torch.Tensor, sign: float
) -> torch.Tensor:
    return x.new_empty(x.shape)
