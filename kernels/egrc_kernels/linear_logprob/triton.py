"""Products of hidden states and weight that write no logits: row sums forward, the gradient by the logits backward.

A program takes tiles of BLOCK_M rows and BLOCK_N columns, one after the other; tiles are read through tensor
descriptors (TMA from sm_90 on). Forward writes each tile's partials, which `join` joins: a row has the same tiles and
the same order of sums whatever other rows there are. It may also write the exponentials of the logits, of which a
gradient in forward is made (`exponentials`). Backward makes the same logits by the same product, knows each row's sum,
and writes only the gradient.
"""

import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl

from egrc_kernels.exp2 import LN_2, LOG2_E, exp2
from egrc_kernels.linear_logprob.join import join_tiles
from egrc_kernels.registry import launches_on_its_device, speaks_ptx


@triton.jit
def _place(tile, tiles_m, first_tile, tiles_n, GROUP_M: tl.constexpr):
    """Row and column of a tile: programs that run together take few of both, which the second-level cache holds."""
    group = tile // (GROUP_M * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    place = tile - group * GROUP_M * tiles_n
    return group * GROUP_M + place % group_rows, first_tile + place // group_rows


@triton.jit
def _tile_sums(x, maximum, exponent, PTX: tl.constexpr):
    """Of e = 2^(exponent (x - maximum)) and of e times its natural logarithm, along the rows of a tile.

    The product and the difference are one instruction, at the price of a rounded `exponent * maximum`. What that is off
    by is the same for a whole row, known, and taken out of the sums. The tile that comes with them still has it: it is
    2^(exponent x - shift).
    """
    # a row of padding only is 1e30 below: it keeps ones, as if the difference had been taken first
    exponents = tl.where(maximum > -1e29, exponent, 0.0)
    shift = maximum * exponents
    off = tl.fma(maximum, exponents, -shift)
    y = tl.fma(x, exponents[:, None], -shift[:, None])
    e = exp2(y, PTX)
    total, weighted = tl.sum(e, 1), tl.sum(e * y, 1)
    scale = exp2(-off, PTX)
    return scale * total, scale * (weighted - off * total) * LN_2, e, shift


@triton.jit(do_not_specialize=["first_tile", "tiles_n", "start", "num_real"])
def _tiles_kernel(
    hidden,
    weight,
    targets,
    partials,
    exponentials,
    references,
    rounds,
    num_rows,
    num_columns,
    hidden_size,
    exponentials_stride,
    start,
    num_real,
    inverse_temperature,
    first_tile,
    tiles_n,
    WRITES_EXPONENTIALS: tl.constexpr,
    AT_ONE: tl.constexpr,
    MASKED: tl.constexpr,
    FLATTEN: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    hidden_tiles = tl.make_tensor_descriptor(hidden, [num_rows, hidden_size], [hidden_size, 1], [BLOCK_M, BLOCK_K])
    weight_tiles = tl.make_tensor_descriptor(weight, [num_columns, hidden_size], [hidden_size, 1], [BLOCK_N, BLOCK_K])
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    num_tiles = tiles_m * tiles_n
    if WRITES_EXPONENTIALS:
        written_tiles = tl.make_tensor_descriptor(
            exponentials, [num_rows, num_columns], [exponentials_stride, 1], [BLOCK_M, BLOCK_N]
        )
        num_tiles *= tl.load(rounds)
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), flatten=FLATTEN):
        tile_m, tile_n = _place(tile, tiles_m, first_tile, tiles_n, GROUP_M)
        x = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in tl.range(0, hidden_size, BLOCK_K):
            a, b = hidden_tiles.load([tile_m * BLOCK_M, k]), weight_tiles.load([tile_n * BLOCK_N, k])
            x = tl.dot(a, b.T, x)
        # minus infinity, a logit that is too small for float32, lies 1e30 below: zero times it is zero, a NaN stays
        x = tl.maximum(x, -1e30, propagate_nan=tl.PropagateNan.ALL)
        rows, first = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n * BLOCK_N
        is_row, columns = rows < num_rows, first + tl.arange(0, BLOCK_N)
        target = (tl.load(targets + rows, mask=is_row, other=-1) - start).to(tl.int32)
        if MASKED:
            # padding lies 1e30 below: its exponential is zero, and so is the product
            x = tl.where((columns < num_real)[None, :], x, -1e30)
            # no column has the number -1: a target of the next shard must not meet this one's padding
            target = tl.where(target < num_real, target, -1)
        maximum = tl.max(x, 1)
        hit = tl.zeros([BLOCK_M], tl.float32)
        is_here = (target >= first) & (target < first + BLOCK_N)
        if tl.max(is_here.to(tl.int32), 0) > 0:
            hit = tl.sum(tl.where(columns[None, :] == target[:, None], x, 0.0), 1)
        out = partials + tl.cast(tile_n, tl.int64) * 6 * num_rows + rows
        tl.store(out, maximum, mask=is_row)
        tl.store(out + num_rows, hit, mask=is_row)
        total_one, weighted_one = tl.zeros([BLOCK_M], tl.float32), tl.zeros([BLOCK_M], tl.float32)
        if not AT_ONE:
            total_one, weighted_one, _e, _shift = _tile_sums(x, maximum, LOG2_E, PTX)
        total, weighted, e, shift = _tile_sums(x, maximum, inverse_temperature * LOG2_E, PTX)
        if WRITES_EXPONENTIALS:
            reference = tl.load(references + rows, mask=is_row, other=0.0)
            # where a row of a tile is 1e30 below, as padding is, e is not
            scale = tl.where(maximum > -1e29, exp2(shift - reference, PTX), 0.0)
            written = (e * scale[:, None]).to(exponentials.dtype.element_ty)
            written_tiles.store([tile_m * BLOCK_M, first], written)
        # stores in between would keep more of the tile alive: 8 bytes of spills on sm_90
        tl.store(out + 2 * num_rows, total, mask=is_row)
        tl.store(out + 3 * num_rows, weighted, mask=is_row)
        if not AT_ONE:
            tl.store(out + 4 * num_rows, total_one, mask=is_row)
            tl.store(out + 5 * num_rows, weighted_one, mask=is_row)


@triton.jit(do_not_specialize=["num_rows", "num_columns", "first_tile", "tiles_n", "start", "num_real"])
def _gradients_kernel(
    hidden,
    weight,
    targets,
    gradients,
    log_sums,
    grad_logprobs,
    entropies,
    grad_entropies,
    num_rows,
    num_columns,
    hidden_size,
    gradient_stride,
    start,
    num_real,
    inverse_temperature,
    first_tile,
    tiles_n,
    HAS_ENTROPY: tl.constexpr,
    MASKED: tl.constexpr,
    FLATTEN: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    hidden_tiles = tl.make_tensor_descriptor(hidden, [num_rows, hidden_size], [hidden_size, 1], [BLOCK_M, BLOCK_K])
    weight_tiles = tl.make_tensor_descriptor(weight, [num_columns, hidden_size], [hidden_size, 1], [BLOCK_N, BLOCK_K])
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        tile_m, tile_n = _place(tile, tiles_m, first_tile, tiles_n, GROUP_M)
        x = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in tl.range(0, hidden_size, BLOCK_K):
            a, b = hidden_tiles.load([tile_m * BLOCK_M, k]), weight_tiles.load([tile_n * BLOCK_N, k])
            x = tl.dot(a, b.T, x)
        rows, first = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n * BLOCK_N
        is_row, columns = rows < num_rows, first + tl.arange(0, BLOCK_N)
        target = (tl.load(targets + rows, mask=is_row, other=-1) - start).to(tl.int32)
        scale = tl.load(grad_logprobs + rows, mask=is_row, other=0.0) * inverse_temperature
        shift = tl.load(log_sums + rows, mask=is_row, other=0.0) * LOG2_E
        y = tl.fma(x, inverse_temperature * LOG2_E, -shift[:, None])
        if HAS_ENTROPY:
            # minus infinity, a logit that is too small for float32, lies 1e30 below: zero times it is zero, a NaN stays
            y = tl.maximum(y, -1e30, propagate_nan=tl.PropagateNan.ALL)
            slope = tl.load(grad_entropies + rows, mask=is_row, other=0.0) * inverse_temperature
            level = scale + slope * tl.load(entropies + rows, mask=is_row, other=0.0)
            gradient = exp2(y, PTX) * tl.fma(y, -(slope * LN_2)[:, None], -level[:, None])
        else:
            gradient = exp2(y, PTX) * -scale[:, None]
        # a loop that is entered only where there is a target, as above, would need the tile twice in registers
        gradient += tl.where(columns[None, :] == target[:, None], scale[:, None], 0.0)
        out = gradients + rows.to(tl.int64)[:, None] * gradient_stride + columns[None, :]
        is_there = is_row[:, None]
        if MASKED:
            gradient = tl.where((columns < num_real)[None, :], gradient, 0.0)
            is_there = is_there & (columns < num_columns)[None, :]
        tl.store(out, gradient.to(gradients.dtype.element_ty), mask=is_there)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Shape and schedule of the product."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int
    flatten: bool = False
    """Read the next tile while one is being finished."""


@dataclass(frozen=True, slots=True)
class Exponentials:
    """What forward writes beside a row's sums: 2^(logit log2(e) / temperature - reference)."""

    values_TV: torch.Tensor
    references_T: torch.Tensor
    """float32."""
    rounds: torch.Tensor
    """int32 scalar on the device: one, or zero and nothing is computed nor written."""


TILES = {
    # a fourth stage would leave no shared memory for a tile of exponentials
    9: Tiles(128, 256, 64, num_warps=8, num_stages=3, flatten=True),
    10: Tiles(128, 128, 64, num_warps=8, num_stages=4),
    8: Tiles(128, 128, 64, num_warps=8, num_stages=2),
}
"""Major compute capability -> what the compile gate has found without spills."""
INTERPRETED = Tiles(32, 64, 32, num_warps=4, num_stages=1)
GROUP_M = 16
"""Row tiles that are taken together: with 132 programs, 16 of them and eight of columns are in use at a time."""


def _by_padding(num_columns: int, num_real: int, width: int) -> Iterator[tuple[int, int, bool]]:
    """First and number of the tiles without padding in them and of those with, which are a launch of their own."""
    num_tiles = triton.cdiv(num_columns, width)
    whole = min(num_real // width, num_tiles)
    for first, count, masked in ((0, whole, False), (whole, num_tiles - whole, True)):
        if count:
            yield first, count, masked


@launches_on_its_device
def fused_partials(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
    tiles: Tiles,
    *,
    num_programs: int,
) -> torch.Tensor:
    """[6, T], see `logprob.reference.row_partials`."""
    tiles_N6T = empty_partials(hidden_TH, weight_VH, tiles)
    rest = (start, num_real, temperature, tiles)
    write_tiles(tiles_N6T, hidden_TH, weight_VH, targets_T, *rest, num_programs=num_programs)
    return join_tiles(tiles_N6T, temperature)


def empty_partials(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    """[N, 6, T] float32 without values, for `write_tiles`."""
    num_tiles = triton.cdiv(weight_VH.shape[0], tiles.n)
    return torch.empty(num_tiles, 6, len(hidden_TH), dtype=torch.float32, device=hidden_TH.device)


@launches_on_its_device
def write_tiles(
    tiles_N6T: torch.Tensor,
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
    tiles: Tiles,
    *,
    num_programs: int,
    exponentials: Exponentials | None = None,
) -> None:
    """Fill the tiles' partials, of which `join_tiles` makes rows', and the exponentials."""
    (num_rows, hidden_size), num_columns = hidden_TH.shape, weight_VH.shape[0]
    written, stride = (tiles_N6T, targets_T, targets_T), 0  # nothing is
    if exponentials is not None:
        written = (exponentials.values_TV, exponentials.references_T, exponentials.rounds)
        stride = exponentials.values_TV.stride(0)
    for first, count, masked in _by_padding(num_columns, num_real, tiles.n):
        grid = (min(num_programs, triton.cdiv(num_rows, tiles.m) * count),)
        launch = partial(
            _tiles_kernel[grid],
            hidden_TH,
            weight_VH,
            targets_T,
            tiles_N6T,
            *written,
            num_rows,
            num_columns,
            hidden_size,
            stride,
            start,
            num_real,
            1.0 / temperature,
            first,
            count,
            WRITES_EXPONENTIALS=exponentials is not None,
            AT_ONE=temperature == 1,
            MASKED=masked,
            FLATTEN=tiles.flatten,
            PTX=speaks_ptx(),
            BLOCK_M=tiles.m,
            BLOCK_N=tiles.n,
            BLOCK_K=tiles.k,
            GROUP_M=GROUP_M,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
        _with_scratch(hidden_TH.device, launch)


@launches_on_its_device
def fused_gradients(
    hidden_TH: torch.Tensor,
    weight_CH: torch.Tensor,
    targets_T: torch.Tensor,
    log_sum_T: torch.Tensor,
    grad_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
    tiles: Tiles,
    *,
    num_programs: int,
) -> torch.Tensor:
    """[T, C] in the weight's dtype, see `logprob.reference.row_gradients_`; float32 logits stay in registers."""
    (num_rows, hidden_size), num_columns = hidden_TH.shape, weight_CH.shape[0]
    # rows begin at whole vectors, whatever the number of columns
    stride = triton.cdiv(num_columns, 16) * 16
    gradient_TC = torch.empty(num_rows, stride, dtype=weight_CH.dtype, device=hidden_TH.device)[:, :num_columns]
    has_entropy = grad_entropy_T is not None and entropy_T is not None
    for first, count, masked in _by_padding(num_columns, num_real, tiles.n):
        grid = (min(num_programs, triton.cdiv(num_rows, tiles.m) * count),)
        launch = partial(
            _gradients_kernel[grid],
            hidden_TH,
            weight_CH,
            targets_T,
            gradient_TC,
            log_sum_T,
            grad_logprob_T,
            entropy_T if has_entropy else grad_logprob_T,
            grad_entropy_T if has_entropy else grad_logprob_T,
            num_rows,
            num_columns,
            hidden_size,
            stride,
            start,
            num_real,
            1.0 / temperature,
            first,
            count,
            HAS_ENTROPY=has_entropy,
            MASKED=masked,
            FLATTEN=tiles.flatten,
            PTX=speaks_ptx(),
            BLOCK_M=tiles.m,
            BLOCK_N=tiles.n,
            BLOCK_K=tiles.k,
            GROUP_M=GROUP_M,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
        _with_scratch(hidden_TH.device, launch)
    return gradient_TC


def _with_scratch(device: torch.device, launch: Callable[[], object]) -> None:
    """Launch a kernel that makes its descriptors on the device, in memory that Triton asks its allocator for.

    The allocator belongs to a context: set in a copy of it, it does not replace that of the program around us.
    """

    def run() -> None:
        triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=device))
        launch()

    contextvars.copy_context().run(run)
