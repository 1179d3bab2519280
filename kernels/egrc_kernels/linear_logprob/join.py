"""The sums of a row from those of its tiles, from left to right, some at a time."""

import torch
import triton
import triton.language as tl

from egrc_kernels.registry import launches_on_its_device

JOIN_ROWS, JOIN_TILES, JOIN_WARPS = 32, 32, 4


@triton.jit
def _sums(place, shift, is_here, num_rows):
    """Sums of several tiles of each row, moved to their common maximum: e' = c e and (e d)' = c (e d + e shift)."""
    scale = tl.exp(shift)
    total = tl.load(place, mask=is_here, other=0.0)
    weighted = tl.load(place + num_rows, mask=is_here, other=0.0)
    return tl.sum(scale * total, 0), tl.sum(scale * (weighted + shift * total), 0)


@triton.jit
def _moved(total, weighted, shift, new_total, new_weighted):
    """What a row had, moved by `shift`, and what is new."""
    scale = tl.exp(shift)
    return scale * total + new_total, scale * (weighted + shift * total) + new_weighted


@triton.jit
def _join_kernel(
    tiles,
    partials,
    num_rows,
    num_tiles,
    inverse_temperature,
    AT_ONE: tl.constexpr,
    ROWS: tl.constexpr,
    TILES_AT_A_TIME: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < num_rows
    maximum = tl.full([ROWS], -1e30, tl.float32)
    hit = tl.zeros([ROWS], tl.float32)
    total, weighted = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    total_one, weighted_one = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for first in range(0, num_tiles, TILES_AT_A_TIME):
        tile = first + tl.arange(0, TILES_AT_A_TIME)
        is_here = (tile < num_tiles)[:, None] & is_row[None, :]
        place = tiles + tile.to(tl.int64)[:, None] * 6 * num_rows + rows[None, :]
        tile_maximum = tl.load(place, mask=is_here, other=-1e30)
        hit += tl.sum(tl.load(place + num_rows, mask=is_here, other=0.0), 0)
        higher = tl.maximum(maximum, tl.max(tile_maximum, 0))
        own, new = maximum - higher, tile_maximum - higher[None, :]
        t, w = _sums(place + 2 * num_rows, new * inverse_temperature, is_here, num_rows)
        total, weighted = _moved(total, weighted, own * inverse_temperature, t, w)
        if not AT_ONE:
            t, w = _sums(place + 4 * num_rows, new, is_here, num_rows)
            total_one, weighted_one = _moved(total_one, weighted_one, own, t, w)
        maximum = higher
    out = partials + rows
    tl.store(out, maximum, mask=is_row)
    tl.store(out + num_rows, hit, mask=is_row)
    tl.store(out + 2 * num_rows, total, mask=is_row)
    tl.store(out + 3 * num_rows, weighted, mask=is_row)
    tl.store(out + 4 * num_rows, total if AT_ONE else total_one, mask=is_row)
    tl.store(out + 5 * num_rows, weighted if AT_ONE else weighted_one, mask=is_row)


@launches_on_its_device
def join_tiles(tiles_N6T: torch.Tensor, temperature: float) -> torch.Tensor:
    """[6, T] of whole rows from [N, 6, T] of their tiles, from left to right."""
    num_tiles, _, num_rows = tiles_N6T.shape
    partials_6T = torch.empty(6, num_rows, dtype=torch.float32, device=tiles_N6T.device)
    _join_kernel[(triton.cdiv(num_rows, JOIN_ROWS),)](
        tiles_N6T,
        partials_6T,
        num_rows,
        num_tiles,
        1.0 / temperature,
        AT_ONE=temperature == 1,
        ROWS=JOIN_ROWS,
        TILES_AT_A_TIME=JOIN_TILES,
        num_warps=JOIN_WARPS,
    )
    return partials_6T
