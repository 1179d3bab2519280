"""The public entry of the op: checks, the sums of each row, autograd."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from egrc_kernels.logprob.api import DTYPES
from egrc_kernels.logprob.shards import Shard
from egrc_kernels.masked_logprob.ops import pair_gradients, pair_logits


@dataclass(frozen=True, slots=True)
class SamplingMasks:
    """The tokens that each of T rows was sampled from: K pairs of a row and a token, in the order of the rows.

    All int64 and on the device of the hidden states.
    """

    rows_K: torch.Tensor
    """Ascending."""
    tokens_K: torch.Tensor
    """Global vocabulary ids."""
    boundaries_T1: torch.Tensor
    """[T + 1] Where each row's pairs begin and end; a row without any has no mask."""
    targets_T: torch.Tensor
    """[T] The pair that was drawn; of a row without a mask any number in [0, K)."""
    covers_all: bool = False
    """Every row has a mask. On the host, for whoever wants to leave out what no row needs then."""

    @property
    def has_mask_T(self) -> torch.Tensor:
        """[T] bool: which rows have a mask."""
        return self.boundaries_T1.diff() > 0


def masked_logprob(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    masks: SamplingMasks,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
) -> torch.Tensor:
    """Log-prob of each target under softmax(logits / temperature) among the tokens of its row's mask.

    That is what top-p and top-k leave: z(target) - log sum over the mask of exp z, z = hidden . weight / temperature.
    Only the mask's logits are computed, in float32, one dot product each; so a row's bits depend on that row alone,
    and on its mask (of very few pairs on a GPU: see the README). DeepSeek-V3.2 (arXiv 2512.02556) calls it "keep
    sampling mask".

    Args:
        hidden_TH: [T, H], float32, bfloat16 or float16.
        weight_VH: [V / group size, H] of the same dtype; this rank's shard of the vocabulary.
        masks: the same on all ranks of the group; no token is outside of the vocabulary.
        temperature: positive divisor of the logits.
        vocab_size: rows of the weight from this global index on are padding; None: every row is real.
        group: tensor-parallel group that shares the vocabulary; None: the whole vocabulary is here. The gradient of
            `hidden_TH` is this rank's share, as for `linear_logprob`.

    Returns:
        [T] float32, equal on all ranks of the group; zero for a row without a mask.

    Raises:
        ValueError: wrong shape or dtype, or a temperature that is not positive.
    """
    if hidden_TH.dim() != 2 or weight_VH.dim() != 2 or hidden_TH.shape[1] != weight_VH.shape[1]:
        shapes = f"{tuple(hidden_TH.shape)} and {tuple(weight_VH.shape)}"
        raise ValueError(f"hidden_TH must be [T, H] and weight_VH [V, H], got {shapes}")
    if hidden_TH.dtype != weight_VH.dtype or hidden_TH.dtype not in DTYPES:
        raise ValueError(f"hidden_TH and weight_VH must share a dtype, got {hidden_TH.dtype} and {weight_VH.dtype}")
    num_rows = len(hidden_TH)
    if masks.boundaries_T1.shape != (num_rows + 1,) or masks.targets_T.shape != (num_rows,):
        shapes = f"{tuple(masks.boundaries_T1.shape)} and {tuple(masks.targets_T.shape)}"
        raise ValueError(f"masks must have boundaries and targets for {num_rows} rows, got {shapes}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not len(masks.rows_K):
        return hidden_TH.new_zeros(num_rows, dtype=torch.float32)
    shard = Shard.here(weight_VH.shape[0], vocab_size, group)
    logprob_T: torch.Tensor = _MaskedLogprob.apply(hidden_TH, weight_VH, masks, temperature, shard, group)
    return logprob_T


class _MaskedLogprob(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        masks: SamplingMasks,
        temperature: float,
        shard: Shard,
        group: ProcessGroup | None,
    ) -> torch.Tensor:
        pairs = (masks.rows_K, masks.tokens_K, shard.start, shard.num_real)
        logits_K = pair_logits(hidden_TH, weight_VH, *pairs)
        if group is not None:  # each pair is one rank's, and zero on the others
            dist.all_reduce(logits_K, group=group)
        logits_K /= temperature
        logprob_K = logits_K - _log_sum(logits_K, masks.boundaries_T1)[masks.rows_K]
        ctx.save_for_backward(hidden_TH, weight_VH, logprob_K)
        ctx.masks, ctx.pairs, ctx.temperature = masks, pairs, temperature
        return logprob_K[masks.targets_T].where(masks.has_mask_T, 0.0)

    @staticmethod
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_TH, weight_VH, logprob_K = ctx.saved_tensors
        masks: SamplingMasks = ctx.masks
        places_K = torch.arange(len(logprob_K), device=logprob_K.device)
        is_target_K = places_K == masks.targets_T[masks.rows_K]
        slope_K = (is_target_K.float() - logprob_K.exp()) * grad_T[masks.rows_K] / ctx.temperature
        return *pair_gradients(hidden_TH, weight_VH, slope_K, *ctx.pairs), None, None, None, None


def _log_sum(logits_K: torch.Tensor, boundaries_T1: torch.Tensor) -> torch.Tensor:
    """[T] log of the sum of exp over each row's pairs; no number for a row without any."""
    rows_K = torch.repeat_interleave(boundaries_T1.diff(), output_size=len(logits_K))
    highest_T = torch.segment_reduce(logits_K, "max", offsets=boundaries_T1, unsafe=True)
    shifted_K = (logits_K - highest_T[rows_K]).exp()
    return highest_T + torch.segment_reduce(shifted_K, "sum", offsets=boundaries_T1, unsafe=True).log()
