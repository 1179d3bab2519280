"""Statistics of the whole vocabulary from those of its shards, and what follows from them."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

IGNORED = -100
"""Label of a row that has no target: its log-prob is zero, and so is its gradient."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of the vocabulary is here: columns from `start` on, of which `num_real` are no padding."""

    start: int
    num_real: int

    @classmethod
    def here(cls, num_columns: int, vocab_size: int | None, group: ProcessGroup | None) -> "Shard":
        """This rank's; ranks hold as many columns each."""
        start = 0 if group is None else num_columns * dist.get_rank(group)
        return cls(start, num_columns if vocab_size is None else min(num_columns, max(0, vocab_size - start)))


@dataclass(frozen=True, slots=True)
class RowStats:
    """Of the whole vocabulary, float32 [T] each."""

    logprob_T: torch.Tensor
    entropy_T: torch.Tensor
    entropy_at_one_T: torch.Tensor
    log_sum_T: torch.Tensor
    """log of the sum of exp(logit / temperature)."""


def row_stats(
    partials_6T: torch.Tensor, targets_T: torch.Tensor, temperature: float, group: ProcessGroup | None
) -> RowStats:
    """Join the ranks' partials in the order of the ranks: one all-gather, and the same bits on every rank."""
    if group is not None:
        shards = [torch.empty_like(partials_6T) for _ in range(dist.get_world_size(group))]
        dist.all_gather(shards, partials_6T, group=group)
        partials_6T = merge(shards, temperature)
    max_T, target_T, total_T, weighted_T, total_one_T, weighted_one_T = partials_6T
    log_total_T = total_T.log()
    logprob_T = (target_T - max_T) / temperature - log_total_T
    return RowStats(
        logprob_T.where(targets_T != IGNORED, 0.0),
        log_total_T - weighted_T / total_T,
        total_one_T.log() - weighted_one_T / total_one_T,
        max_T / temperature + log_total_T,
    )


def merge(shards: list[torch.Tensor], temperature: float) -> torch.Tensor:
    """[6, T] of the whole from [6, T] of each shard."""
    max_T = torch.stack([shard[0] for shard in shards]).amax(0)
    merged_6T = torch.zeros_like(shards[0])
    merged_6T[0] = max_T
    for shard in shards:
        merged_6T[1] += shard[1]
        shift_T = shard[0] - max_T
        for place, factor_T in ((2, shift_T / temperature), (4, shift_T)):
            scale_T = factor_T.exp()
            merged_6T[place] += scale_T * shard[place]
            # a shard that is all padding lies 1e30 below: zero times that is zero
            merged_6T[place + 1] += scale_T * (shard[place + 1] + factor_T * shard[place])
    return merged_6T
