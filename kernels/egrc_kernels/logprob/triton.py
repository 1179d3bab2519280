"""Row statistics of logits and their gradient, one read of the logits each. README has the maths.

One program reads one row. A thread takes sixteen columns at a time and moves its own maximum once for them: 1.06
exponentials an element (twice that with another temperature than one); threads meet at the end of the row only. What
needs no column of its own is kept out of the loop: the target's logit is loaded by itself, and only the last block of a
row asks which of its columns are real.
"""

import torch
import triton
import triton.language as tl

from egrc_kernels.exp2 import LOG2_E, exp2
from egrc_kernels.registry import launches_on_its_device, speaks_ptx

PADDING = -1e30


@triton.jit
def _finite(x):
    """In float32; a token forbidden by minus infinity lies 1e30 below: zero times it is zero, a NaN stays."""
    return tl.maximum(x.to(tl.float32), -1e30, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _moved(total, weighted, shift, exponent, PTX: tl.constexpr):
    """Sums of e and e d, moved by `shift` to a higher maximum: e' = c e and (e d)' = c (e d + e shift)."""
    scale = exp2(shift * exponent, PTX)
    return scale * total, scale * (weighted + shift * total)


@triton.jit
def _with_block(
    x, maximum, total, weighted, total_one, weighted_one, exponent, AT_ONE: tl.constexpr, PTX: tl.constexpr
):
    """A thread's maximum and sums over e and e d with one more block of columns [parts, threads, neighbours]."""
    higher = tl.maximum(maximum, tl.max(tl.max(x, 2), 0))
    shift = maximum - higher
    d = x - higher[None, :, None]
    e = exp2(d * exponent, PTX)
    total, weighted = _moved(total, weighted, shift, exponent, PTX)
    total += tl.sum(tl.sum(e, 2), 0)
    weighted += tl.sum(tl.sum(e * d, 2), 0)
    if not AT_ONE:
        e = exp2(d * LOG2_E, PTX)
        total_one, weighted_one = _moved(total_one, weighted_one, shift, LOG2_E, PTX)
        total_one += tl.sum(tl.sum(e, 2), 0)
        weighted_one += tl.sum(tl.sum(e * d, 2), 0)
    return higher, total, weighted, total_one, weighted_one


@triton.jit(do_not_specialize=["num_rows", "start", "num_real"])
def _partials_kernel(
    logits,
    targets,
    partials,
    num_rows,
    row_stride,
    start,
    num_real,
    inverse_temperature,
    AT_ONE: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    row = tl.program_id(0)
    base = logits + row.to(tl.int64) * row_stride
    target = (tl.load(targets + row) - start).to(tl.int32)
    is_here = (target >= 0) & (target < num_real)
    hit = _finite(tl.load(base + target, mask=is_here, other=0.0))
    THREADS: tl.constexpr = BLOCK // (PARTS * NEIGHBOURS)
    parts = tl.arange(0, PARTS)[:, None, None] * (THREADS * NEIGHBOURS)
    places = parts + tl.arange(0, THREADS)[None, :, None] * NEIGHBOURS + tl.arange(0, NEIGHBOURS)[None, None, :]
    exponent = inverse_temperature * LOG2_E
    maximum = tl.full([THREADS], -1e30, tl.float32)
    total, weighted = tl.zeros([THREADS], tl.float32), tl.zeros([THREADS], tl.float32)
    total_one, weighted_one = tl.zeros([THREADS], tl.float32), tl.zeros([THREADS], tl.float32)
    whole = num_real - num_real % BLOCK
    for first in range(0, whole, BLOCK):
        x = _finite(tl.load(base + first + places))
        maximum, total, weighted, total_one, weighted_one = _with_block(
            x, maximum, total, weighted, total_one, weighted_one, exponent, AT_ONE, PTX
        )
    if whole < num_real:
        # columns that are not there lie 1e30 below, where exponentials are zero; so does a thread that has no other
        x = _finite(tl.load(base + whole + places, mask=whole + places < num_real, other=-1e30))
        maximum, total, weighted, total_one, weighted_one = _with_block(
            x, maximum, total, weighted, total_one, weighted_one, exponent, AT_ONE, PTX
        )
    highest = tl.max(maximum, 0)
    total, weighted = _moved(total, weighted, maximum - highest, exponent, PTX)
    total_sum, weighted_sum = tl.sum(total, 0), tl.sum(weighted, 0)
    out = partials + row
    tl.store(out, highest)
    tl.store(out + num_rows, hit)
    tl.store(out + 2 * num_rows, total_sum)
    tl.store(out + 3 * num_rows, weighted_sum * inverse_temperature)
    if not AT_ONE:
        total, weighted = _moved(total_one, weighted_one, maximum - highest, LOG2_E, PTX)
        total_sum, weighted_sum = tl.sum(total, 0), tl.sum(weighted, 0)
    tl.store(out + 4 * num_rows, total_sum)
    tl.store(out + 5 * num_rows, weighted_sum)


@triton.jit(do_not_specialize=["start", "num_real"])
def _gradients_kernel(
    logits,
    gradients,
    targets,
    log_sums,
    grad_logprobs,
    entropies,
    grad_entropies,
    row_stride,
    gradient_stride,
    start,
    num_real,
    num_columns,
    inverse_temperature,
    HAS_ENTROPY: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, first = tl.program_id(0), tl.program_id(1) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    is_column = columns < num_columns
    target = (tl.load(targets + row) - start).to(tl.int32)
    scale = tl.load(grad_logprobs + row) * inverse_temperature
    x = _finite(tl.load(logits + row.to(tl.int64) * row_stride + columns, mask=is_column, other=0.0))
    logprob = x * inverse_temperature - tl.load(log_sums + row)
    factor = scale
    if HAS_ENTROPY:
        slope = tl.load(grad_entropies + row) * inverse_temperature
        factor = scale + slope * (logprob + tl.load(entropies + row))
    gradient = -exp2(logprob * LOG2_E, PTX) * factor
    # of a row's blocks one has the target and the last ones padding: the others do not ask every column
    if (target >= first) & (target < first + BLOCK):
        gradient += tl.where(columns == target, scale, 0.0)
    if first + BLOCK > num_real:
        gradient = tl.where(columns < num_real, gradient, 0.0)
    out = gradients + row.to(tl.int64) * gradient_stride + columns
    tl.store(out, gradient.to(gradients.dtype.element_ty), mask=is_column)


PARTIALS_BLOCK, PARTIALS_WARPS = 4096, 8
COLUMNS_OF_A_THREAD, BYTES_OF_A_LOAD = 16, 16
GRADIENTS_BLOCK, GRADIENTS_WARPS = 4096, 8


@launches_on_its_device
def row_partials(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    """See `reference.row_partials`; the logits stay as they are."""
    num_rows = logits_TV.shape[0]
    partials_6T = torch.empty(6, num_rows, dtype=torch.float32, device=logits_TV.device)
    neighbours = BYTES_OF_A_LOAD // logits_TV.element_size()
    if num_rows:
        _partials_kernel[(num_rows,)](
            logits_TV,
            targets_T,
            partials_6T,
            num_rows,
            logits_TV.stride(0),
            start,
            num_real,
            1.0 / temperature,
            AT_ONE=temperature == 1,
            PTX=speaks_ptx(),
            BLOCK=PARTIALS_BLOCK,
            PARTS=COLUMNS_OF_A_THREAD // neighbours,
            NEIGHBOURS=neighbours,
            num_warps=PARTIALS_WARPS,
        )
    return partials_6T


@launches_on_its_device
def row_gradients(
    logits_TV: torch.Tensor,
    gradients_TV: torch.Tensor,
    targets_T: torch.Tensor,
    log_sum_T: torch.Tensor,
    grad_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor | None,
    grad_entropy_T: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
) -> None:
    """Write the gradient by the logits into `gradients_TV`, which may be the logits' own memory."""
    num_rows, num_columns = logits_TV.shape
    if not num_rows:
        return
    has_entropy = grad_entropy_T is not None and entropy_T is not None
    _gradients_kernel[(num_rows, triton.cdiv(num_columns, GRADIENTS_BLOCK))](
        logits_TV,
        gradients_TV,
        targets_T,
        log_sum_T,
        grad_logprob_T,
        entropy_T if has_entropy else grad_logprob_T,
        grad_entropy_T if has_entropy else grad_logprob_T,
        logits_TV.stride(0),
        gradients_TV.stride(0),
        start,
        num_real,
        num_columns,
        1.0 / temperature,
        HAS_ENTROPY=has_entropy,
        PTX=speaks_ptx(),
        BLOCK=GRADIENTS_BLOCK,
        num_warps=GRADIENTS_WARPS,
    )
