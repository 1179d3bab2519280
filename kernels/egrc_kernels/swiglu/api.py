"""The public entry of the op: checks, torch's view of it, autograd."""

from typing import Any

import torch

from egrc_kernels.registry import uses_triton
from egrc_kernels.swiglu import reference


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Computes silu(gate) * up, where x holds gate and up one after the other; float32 between load and store.

    Args:
        x: [..., 2 F], float32, bfloat16 or float16.

    Returns:
        [..., F] of the same dtype.

    Raises:
        ValueError: the last axis is odd, or the dtype another.
    """
    if x.dim() < 1 or x.shape[-1] % 2:
        raise ValueError(f"x must be [..., 2 F], got {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"x must be float32, bfloat16 or float16, got {x.dtype}")
    rows = x.reshape(-1, x.shape[-1])
    y: torch.Tensor = _SwiGLU.apply(rows if rows.stride(-1) == 1 else rows.contiguous())
    return y.reshape(*x.shape[:-1], x.shape[-1] // 2)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TF: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_TF)
        return _forward(x_TF)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        grad_TF = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        return _backward(grad_TF, *ctx.saved_tensors)


@torch.library.custom_op("egrc::swiglu", mutates_args=())
def _forward(x: torch.Tensor) -> torch.Tensor:
    if uses_triton(x):
        from egrc_kernels.swiglu import triton

        return triton.swiglu(x)
    return reference.swiglu(x)


@_forward.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@torch.library.custom_op("egrc::swiglu_backward", mutates_args=())
def _backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if uses_triton(x):
        from egrc_kernels.swiglu import triton

        return triton.swiglu_backward(grad, x)
    return reference.swiglu_backward(grad, x)


@_backward.register_fake
def _(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)
