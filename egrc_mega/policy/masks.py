"""What the output tokens of a micro-batch were drawn from, as the kernel takes it."""

from collections.abc import Sequence

import numpy as np
import torch
from egrc_kernels.linear_logprob import LogprobStats
from egrc_kernels.masked_logprob import SamplingMasks
from numpy.typing import NDArray

from egrc_mega.errors import PolicyError
from egrc_mega.policy.packed import on_device
from egrc_mega.sampling_mask import join_masks
from egrc_mega.types import TrainSample


def masks_of(
    samples: Sequence[TrainSample], targets_R: NDArray[np.int64], is_here_W: NDArray[np.bool_], device: torch.device
) -> SamplingMasks | None:
    """The masks of those output tokens of the samples that are here; None where all are of the whole vocabulary.

    Raises:
        PolicyError: a mask is another token's.
    """
    whole = join_masks([(sample.sampling_mask, len(sample.output_ids)) for sample in samples])
    if whole is None:
        return None
    mask = whole.chosen(is_here_W)
    if not len(mask.token_ids):
        return None
    rows_K = np.repeat(np.arange(len(targets_R)), mask.counts)
    drawn_K = np.flatnonzero(mask.token_ids == targets_R[rows_K])
    if not np.array_equal(rows_K[drawn_K], np.flatnonzero(mask.counts)):
        raise PolicyError(
            "a token does not stand once in its own sampling mask: the rollouts are damaged, or a method has edited a "
            "response before its edit's first_changed"
        )
    places_R = np.zeros_like(targets_R)
    places_R[rows_K[drawn_K]] = drawn_K
    return SamplingMasks(
        rows_K=on_device(rows_K, device),
        tokens_K=on_device(mask.token_ids.astype(np.int64), device),
        boundaries_T1=on_device(np.concatenate([[0], np.cumsum(mask.counts, dtype=np.int64)]), device),
        targets_T=on_device(places_R, device),
        covers_all=bool(mask.counts.all()),
    )


def among(masks: SamplingMasks, stats: LogprobStats, masked_T: torch.Tensor) -> LogprobStats:
    """The statistics with log-probs among what was drawn from, where that is not the whole vocabulary."""
    return stats._replace(logprob_T=torch.where(masks.has_mask_T, masked_T, stats.logprob_T))
