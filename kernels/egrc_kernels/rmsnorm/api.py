"""The public entry of the op: checks, torch's view of it, autograd."""

from typing import Any

import torch

from egrc_kernels.registry import uses_triton
from egrc_kernels.rmsnorm import reference


def rmsnorm(x: torch.Tensor, weight_H: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Computes x / sqrt(mean(x^2) + eps) * weight over the last axis; everything between load and store is float32.

    Args:
        x: [..., H], float32, bfloat16 or float16.
        weight_H: [H], of the same dtype or float32.
        eps: added to the mean of squares.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if weight_H.shape != x.shape[-1:] or x.dim() < 1:
        raise ValueError(f"weight_H must be [{x.shape[-1] if x.dim() else 'H'}], got {tuple(weight_H.shape)}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or weight_H.dtype not in (x.dtype, torch.float32):
        raise ValueError(f"x and weight_H must share float32, bfloat16 or float16, got {x.dtype} and {weight_H.dtype}")
    if x.device != weight_H.device:
        raise ValueError(f"devices differ: {x.device} and {weight_H.device}")
    rows = x.reshape(-1, x.shape[-1])
    y: torch.Tensor = _RMSNorm.apply(rows if rows.stride(-1) == 1 else rows.contiguous(), weight_H, eps)
    return y.reshape(x.shape)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
        y_TH, inverse_T = _forward(x_TH, weight_H, eps)
        ctx.save_for_backward(x_TH, weight_H, inverse_T)
        return y_TH

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_TH = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        return *_backward(grad_TH, *ctx.saved_tensors), None


@torch.library.custom_op("egrc::rmsnorm", mutates_args=())
def _forward(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    if uses_triton(x):
        from egrc_kernels.rmsnorm import triton

        return triton.rmsnorm(x, weight, eps)
    return reference.rmsnorm(x, weight, eps)


@_forward.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], dtype=torch.float32)


@torch.library.custom_op("egrc::rmsnorm_backward", mutates_args=())
def _backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if uses_triton(x):
        from egrc_kernels.rmsnorm import triton

        return triton.rmsnorm_backward(grad, x, weight, inverses)
    return reference.rmsnorm_backward(grad, x, weight, inverses)


@_backward.register_fake
def _(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)
