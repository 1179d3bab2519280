"""The norm: forward a row a program; backward a program takes every P-th row and sums their part of the weight's.

A program of the backward kernel waits for its row, then for its threads to meet: the next two rows are on their way
meanwhile.
"""

import torch
import triton
import triton.language as tl

from egrc_kernels.registry import launches_on_its_device

MAX_PROGRAMS = 528
"""Four for each of an H100's processors; their partial sums of the weight's gradient are added by torch, in order."""
STAGES = 3
"""Of a program: one row in work, two on their way."""


@triton.jit
def _forward_kernel(x, weight, y, inverses, row_stride, size, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    is_column = columns < size
    values = tl.load(x + row.to(tl.int64) * row_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(values * values, 0) / size + eps)
    scale = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    result = values * inverse * scale
    tl.store(y + row.to(tl.int64) * size + columns, result.to(y.dtype.element_ty), mask=is_column)
    tl.store(inverses + row, inverse)


@triton.jit(do_not_specialize=["num_rows"])
def _backward_kernel(
    grad,
    x,
    weight,
    inverses,
    grad_x,
    grad_weights,
    grad_stride,
    row_stride,
    num_rows,
    size,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    columns = tl.arange(0, BLOCK)
    is_column = columns < size
    scale = tl.load(weight + columns, mask=is_column, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([BLOCK], tl.float32)
    for row in tl.range(tl.program_id(0), num_rows, tl.num_programs(0), num_stages=STAGES):
        upstream = tl.load(grad + tl.cast(row, tl.int64) * grad_stride + columns, mask=is_column, other=0.0)
        upstream = upstream.to(tl.float32)
        values = tl.load(x + tl.cast(row, tl.int64) * row_stride + columns, mask=is_column, other=0.0).to(tl.float32)
        inverse = tl.load(inverses + row)
        normal = values * inverse
        scaled = upstream * scale
        mean = tl.sum(scaled * normal, 0) / size
        result = inverse * (scaled - normal * mean)
        tl.store(grad_x + tl.cast(row, tl.int64) * size + columns, result.to(grad_x.dtype.element_ty), mask=is_column)
        grad_weight += upstream * normal
    tl.store(grad_weights + tl.program_id(0) * size + columns, grad_weight, mask=is_column)


def block_and_warps(size: int) -> tuple[int, int]:
    """A row in one block; eight warps from 4096 columns on."""
    block = triton.next_power_of_2(size)
    return block, 4 if block < 4096 else 8 if block < 16384 else 16


@launches_on_its_device
def rmsnorm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel's answer to `reference.rmsnorm`, which says the shapes."""
    num_rows, size = x_TH.shape
    y_TH = torch.empty(num_rows, size, dtype=x_TH.dtype, device=x_TH.device)
    inverse_T = torch.empty(num_rows, dtype=torch.float32, device=x_TH.device)
    block, warps = block_and_warps(size)
    if num_rows:
        _forward_kernel[(num_rows,)](
            x_TH, weight_H, y_TH, inverse_T, x_TH.stride(0), size, eps, BLOCK=block, num_warps=warps
        )
    return y_TH, inverse_T


@launches_on_its_device
def rmsnorm_backward(
    grad_TH: torch.Tensor, x_TH: torch.Tensor, weight_H: torch.Tensor, inverse_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel's answer to `reference.rmsnorm_backward`, which says the shapes."""
    num_rows, size = x_TH.shape
    grad_x_TH = torch.empty(num_rows, size, dtype=x_TH.dtype, device=x_TH.device)
    programs = max(1, min(MAX_PROGRAMS, num_rows))
    grad_weights_PH = torch.empty(programs, size, dtype=torch.float32, device=x_TH.device)
    block, warps = block_and_warps(size)
    _backward_kernel[(programs,)](
        grad_TH,
        x_TH,
        weight_H,
        inverse_T,
        grad_x_TH,
        grad_weights_PH,
        grad_TH.stride(0),
        x_TH.stride(0),
        num_rows,
        size,
        BLOCK=block,
        STAGES=STAGES,
        num_warps=warps,
    )
    return grad_x_TH, grad_weights_PH.sum(0).to(weight_H.dtype)
