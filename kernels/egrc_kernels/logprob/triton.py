"""Row statistics of logits and their gradient, one read of the logits each. README has the maths.

One program reads one row. A thread takes eight neighbouring columns at a time and moves its own maximum once for them:
1.125 exponentials an element (twice that with another temperature than one); threads meet at the end of the row only.
"""

import torch
import triton
import triton.language as tl

from egrc_kernels.registry import launches_on_its_device

PADDING = -1e30


@triton.jit
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
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    row = tl.program_id(0)
    base = logits + row.to(tl.int64) * row_stride
    target = (tl.load(targets + row) - start).to(tl.int32)
    places = tl.arange(0, BLOCK // GROUP)[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    maximum = tl.full([BLOCK // GROUP], -1e30, tl.float32)
    hit = tl.zeros([BLOCK // GROUP], tl.float32)
    total, weighted = tl.zeros([BLOCK // GROUP], tl.float32), tl.zeros([BLOCK // GROUP], tl.float32)
    total_one, weighted_one = tl.zeros([BLOCK // GROUP], tl.float32), tl.zeros([BLOCK // GROUP], tl.float32)
    for first in range(0, num_real, BLOCK):
        columns = first + places
        is_real = columns < num_real
        # zero times it is zero, which it is not for the infinity of a forbidden token
        x = tl.load(base + columns, mask=is_real, other=-1e30).to(tl.float32)
        x = tl.maximum(x, -1e30, propagate_nan=tl.PropagateNan.ALL)
        hit += tl.sum(tl.where(is_real & (columns == target), x, 0.0), 1)
        higher = tl.maximum(maximum, tl.max(x, 1))
        shift = maximum - higher
        d = x - higher[:, None]
        # moving the maximum: e' = c e and (e d)' = c (e d + e shift)
        scale = tl.exp(shift * inverse_temperature)
        e = tl.where(is_real, tl.exp(d * inverse_temperature), 0.0)
        weighted = scale * (weighted + shift * inverse_temperature * total) + tl.sum(e * d, 1) * inverse_temperature
        total = scale * total + tl.sum(e, 1)
        if not AT_ONE:
            scale = tl.exp(shift)
            e = tl.where(is_real, tl.exp(d), 0.0)
            weighted_one = scale * (weighted_one + shift * total_one) + tl.sum(e * d, 1)
            total_one = scale * total_one + tl.sum(e, 1)
        maximum = higher
    highest = tl.max(maximum, 0)
    shift = maximum - highest
    scale = tl.exp(shift * inverse_temperature)
    whole = tl.sum(scale * total, 0)
    whole_weighted = tl.sum(scale * (weighted + shift * inverse_temperature * total), 0)
    out = partials + row
    tl.store(out, highest)
    tl.store(out + num_rows, tl.sum(hit, 0))
    tl.store(out + 2 * num_rows, whole)
    tl.store(out + 3 * num_rows, whole_weighted)
    if not AT_ONE:
        scale = tl.exp(shift)
        whole = tl.sum(scale * total_one, 0)
        whole_weighted = tl.sum(scale * (weighted_one + shift * total_one), 0)
    tl.store(out + 4 * num_rows, whole)
    tl.store(out + 5 * num_rows, whole_weighted)


@triton.jit
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
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_real, is_column = columns < num_real, columns < num_columns
    target = (tl.load(targets + row) - start).to(tl.int32)
    scale = tl.load(grad_logprobs + row) * inverse_temperature
    x = tl.load(logits + row.to(tl.int64) * row_stride + columns, mask=is_real, other=0.0).to(tl.float32)
    x = tl.maximum(x, -1e30, propagate_nan=tl.PropagateNan.ALL)
    logprob = x * inverse_temperature - tl.load(log_sums + row)
    factor = scale
    if HAS_ENTROPY:
        slope = tl.load(grad_entropies + row) * inverse_temperature
        factor = scale + slope * (logprob + tl.load(entropies + row))
    gradient = -tl.exp(logprob) * factor + tl.where(columns == target, scale, 0.0)
    gradient = tl.where(is_real, gradient, 0.0)
    out = gradients + row.to(tl.int64) * gradient_stride + columns
    tl.store(out, gradient.to(gradients.dtype.element_ty), mask=is_column)


PARTIALS_BLOCK, PARTIALS_GROUP, PARTIALS_WARPS = 4096, 8, 8
GRADIENTS_BLOCK, GRADIENTS_WARPS = 4096, 8


@launches_on_its_device
def row_partials(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    """See `reference.row_partials`; the logits stay as they are."""
    num_rows = logits_TV.shape[0]
    partials_6T = torch.empty(6, num_rows, dtype=torch.float32, device=logits_TV.device)
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
            BLOCK=PARTIALS_BLOCK,
            GROUP=PARTIALS_GROUP,
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
        BLOCK=GRADIENTS_BLOCK,
        num_warps=GRADIENTS_WARPS,
    )
