"""SwiGLU, a block of a row a program; backward computes the sigmoid again."""

import torch
import triton
import triton.language as tl

from egrc_kernels.registry import launches_on_its_device

BLOCK, WARPS = 1024, 4


@triton.jit
def _forward_kernel(x, y, row_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < size
    gate = tl.load(x + row * row_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(x + row * row_stride + size + columns, mask=is_column, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * up
    tl.store(y + row * size + columns, result.to(y.dtype.element_ty), mask=is_column)


@triton.jit
def _backward_kernel(grad, x, grad_x, grad_stride, row_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = columns < size
    upstream = tl.load(grad + row * grad_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    gate = tl.load(x + row * row_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(x + row * row_stride + size + columns, mask=is_column, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_gate = upstream * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    grad_up = upstream * gate * sigmoid
    out = grad_x + row * size * 2 + columns
    tl.store(out, grad_gate.to(grad_x.dtype.element_ty), mask=is_column)
    tl.store(out + size, grad_up.to(grad_x.dtype.element_ty), mask=is_column)


@launches_on_its_device
def swiglu(x_TF: torch.Tensor) -> torch.Tensor:
    """The kernel's answer to `reference.swiglu`, which says the shapes."""
    num_rows, size = x_TF.shape[0], x_TF.shape[1] // 2
    y_TF = torch.empty(num_rows, size, dtype=x_TF.dtype, device=x_TF.device)
    if num_rows:
        grid = (num_rows, triton.cdiv(size, BLOCK))
        _forward_kernel[grid](x_TF, y_TF, x_TF.stride(0), size, BLOCK=BLOCK, num_warps=WARPS)
    return y_TF


@launches_on_its_device
def swiglu_backward(grad_TF: torch.Tensor, x_TF: torch.Tensor) -> torch.Tensor:
    """The kernel's answer to `reference.swiglu_backward`, which says the shapes."""
    num_rows, size = x_TF.shape[0], x_TF.shape[1] // 2
    grad_x_TF = torch.empty(x_TF.shape, dtype=x_TF.dtype, device=x_TF.device)
    if num_rows:
        grid = (num_rows, triton.cdiv(size, BLOCK))
        _backward_kernel[grid](
            grad_TF, x_TF, grad_x_TF, grad_TF.stride(0), x_TF.stride(0), size, BLOCK=BLOCK, num_warps=WARPS
        )
    return grad_x_TF
