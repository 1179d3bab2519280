"""Gradients by logits before their sum is known: exponentials that a fused product writes, and a factor for each row.

The gradient of a row's log-prob is (one at the target - p) / T with p = e / sum and e = 2^(logit log2(e) / T -
reference). The product that makes the logits writes e in the weight's dtype while it adds them up. The sum and the
loss's slope come later, as factors of whole rows that the two products behind can take outside: no logits are in
memory, and nothing passes over their gradient between the three products.

Any reference does that keeps e in the range of bfloat16, which is float32's. It is the target's own logit, from a
product of two vectors in the weight's dtype: a row whose target has a log-prob above -84 is as exact as its rounding.
Any other row, of an unlikely target or of logits so large that their rounding matters, is written again relative to its
sum, by a second launch that does nothing where there is no such row: the device decides, and nobody waits for it.
"""

import math

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.fused import can_fuse, tiles_and_programs
from egrc_kernels.logprob.shards import IGNORED, RowStats, Shard, row_stats

LOG2_E = math.log2(math.e)
ABOVE_TARGET = 32.0
"""Powers of two from the target to the reference: tokens less likely than e^-65 times the target count as zero."""
MOST = 90.0
"""Powers of two between the reference and a row's sum: what is larger might leave float32 in the products."""


def can_take_exponentials(hidden_TH: torch.Tensor, weight_VH: torch.Tensor) -> bool:
    """The fused product runs here, and the dtype has the range of float32: float16 has not."""
    return hidden_TH.dtype != torch.float16 and can_fuse(hidden_TH, weight_VH)


def row_exponentials(
    values_TV: torch.Tensor,
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    shard: Shard,
    temperature: float,
    group: ProcessGroup | None,
) -> tuple[RowStats, torch.Tensor]:
    """Fill this shard's exponentials, less their sum at the target; statistics of the whole vocabulary.

    Args:
        values_TV: of the weight's dtype; rows begin at multiples of 16 bytes.
        hidden_TH: and the following as for `linear_logprob`.

    Returns:
        The bits of the fused forward's statistics; and [T] float32, which times the loss's slope by a log-prob is the
        factor that makes the row's values the gradient by the logits.
    """
    inputs = (hidden_TH, weight_VH, targets_T)
    place = (shard.start, shard.num_real, temperature)
    local_T = targets_T - shard.start
    is_here_T = (local_T >= 0) & (local_T < shard.num_real)
    local_T = local_T.where(is_here_T, 0)
    # a row without target takes the vocabulary's first token for it
    is_mine_T = is_here_T | ((targets_T == IGNORED) & (shard.start == 0))
    exponents_T = _logits(hidden_TH, weight_VH, local_T, is_mine_T, group) * (LOG2_E / temperature)
    references_T = exponents_T + ABOVE_TARGET
    partials_6T = exponentials(values_TV, *inputs, references_T, *place)
    stats = row_stats(partials_6T, targets_T, temperature, group)
    log_sum_T = stats.log_sum_T * LOG2_E
    is_far_T = ~((log_sum_T - references_T).abs() <= MOST)
    references_T = log_sum_T.where(is_far_T, references_T)
    exponentials_again(values_TV, *inputs, references_T, is_far_T.any(), *place)
    # by the log-prob: where it is near zero the difference of two exponentials would be their rounding
    at_target_T = (stats.logprob_T.expm1() * (log_sum_T - references_T).exp2()).to(values_TV.dtype)
    _put(values_TV, local_T, at_target_T, is_here_T)
    return stats, (references_T - log_sum_T).exp2() / -temperature


def _logits(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    columns_T: torch.Tensor,
    is_mine_T: torch.Tensor,
    group: ProcessGroup | None,
) -> torch.Tensor:
    """[T] float32, one of each row, from the rank whose it is; as exact as the dtype, and equal on all ranks."""
    logits_T = torch.einsum("th,th->t", hidden_TH, weight_VH[columns_T]).float().where(is_mine_T, 0.0)
    if group is not None:
        dist.all_reduce(logits_T, group=group)
    return logits_T


def _put(values_TV: torch.Tensor, columns_T: torch.Tensor, new_T: torch.Tensor, is_here_T: torch.Tensor) -> None:
    """One value into each row for which it is here."""
    columns_T1 = columns_T[:, None]
    values_TV.scatter_(1, columns_T1, torch.where(is_here_T[:, None], new_T[:, None], values_TV.gather(1, columns_T1)))


@torch.library.custom_op("egrc::exponentials", mutates_args={"values"})
def exponentials(
    values: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    references: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
) -> torch.Tensor:
    """Write them; [6, T], see `logprob.reference.row_partials`."""
    from egrc_kernels.linear_logprob.join import join_tiles

    once = torch.ones((), dtype=torch.int32, device=hidden.device)
    tiles_N6T = _write(values, hidden, weight, targets, references, once, start, num_real, temperature)
    return join_tiles(tiles_N6T, temperature)


@exponentials.register_fake
def _(values: torch.Tensor, hidden: torch.Tensor, *_rest: object) -> torch.Tensor:
    return hidden.new_empty(6, hidden.shape[0], dtype=torch.float32)


@torch.library.custom_op("egrc::exponentials_again", mutates_args={"values"})
def exponentials_again(
    values: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    references: torch.Tensor,
    is_needed: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
) -> None:
    """Write them once more if the device's flag says so: a launch that is over at once if not."""
    rounds = is_needed.to(torch.int32)
    _write(values, hidden, weight, targets, references, rounds, start, num_real, temperature)


@exponentials_again.register_fake
def _(*_arguments: object) -> None:
    return None


def _write(
    values_TV: torch.Tensor,
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    references_T: torch.Tensor,
    rounds: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
) -> torch.Tensor:
    """[N, 6, T] partials of the tiles, for `join`."""
    from egrc_kernels.linear_logprob import triton

    tiles, num_programs = tiles_and_programs(hidden_TH)
    tiles_N6T = triton.empty_partials(hidden_TH, weight_VH, tiles)
    written = triton.Exponentials(values_TV, references_T, rounds)
    rest = (hidden_TH, weight_VH, targets_T, start, num_real, temperature, tiles)
    triton.write_tiles(tiles_N6T, *rest, num_programs=num_programs, exponentials=written)
    return tiles_N6T
