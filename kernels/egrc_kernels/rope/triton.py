"""Rotary embedding, all heads of a token a program: its angles are read once."""

import torch
import triton
import triton.language as tl

from egrc_kernels.registry import launches_on_its_device

WARPS = 4


@triton.jit
def _rope_kernel(
    x,
    y,
    cosines,
    sines,
    positions,
    token_stride,
    head_stride,
    num_heads,
    head_dim,
    half,
    sign,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + token).to(tl.int64)
    heads, lanes = tl.arange(0, HEADS), tl.arange(0, HALF)
    is_lane = lanes < half
    cosine = tl.load(cosines + position * half + lanes, mask=is_lane, other=0.0)[None, :]
    sine = tl.load(sines + position * half + lanes, mask=is_lane, other=0.0)[None, :] * sign
    is_here = (heads < num_heads)[:, None] & is_lane[None, :]
    source = x + token * token_stride + heads[:, None] * head_stride + lanes[None, :]
    out = y + (token * num_heads + heads[:, None]) * head_dim + lanes[None, :]
    first = tl.load(source, mask=is_here, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=is_here, other=0.0).to(tl.float32)
    tl.store(out, (first * cosine - second * sine).to(y.dtype.element_ty), mask=is_here)
    tl.store(out + half, (second * cosine + first * sine).to(y.dtype.element_ty), mask=is_here)
    if REST > 0:
        rest = 2 * half + tl.arange(0, REST)
        is_rest = (heads < num_heads)[:, None] & (rest < head_dim)[None, :]
        values = tl.load(
            x + token * token_stride + heads[:, None] * head_stride + rest[None, :], mask=is_rest, other=0.0
        )
        tl.store(y + (token * num_heads + heads[:, None]) * head_dim + rest[None, :], values, mask=is_rest)


@launches_on_its_device
def rope(
    x_TND: torch.Tensor, cos_PE: torch.Tensor, sin_PE: torch.Tensor, positions_T: torch.Tensor, sign: float
) -> torch.Tensor:
    """The kernel's answer to `reference.rope`, which says the shapes."""
    num_tokens, num_heads, head_dim = x_TND.shape
    y_TND = torch.empty(x_TND.shape, dtype=x_TND.dtype, device=x_TND.device)
    half = cos_PE.shape[1]
    rest = head_dim - 2 * half
    if num_tokens:
        _rope_kernel[(num_tokens,)](
            x_TND,
            y_TND,
            cos_PE,
            sin_PE,
            positions_T,
            x_TND.stride(0),
            x_TND.stride(1),
            num_heads,
            head_dim,
            half,
            sign,
            HEADS=triton.next_power_of_2(num_heads),
            HALF=triton.next_power_of_2(half),
            REST=triton.next_power_of_2(rest) if rest else 0,
            num_warps=WARPS,
        )
    return y_TND
