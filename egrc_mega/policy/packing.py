"""Lays the samples of a micro-batch end to end, as tensors: see `balance` for which samples those are.

Every micro-batch holds at least one sample: where there are fewer samples than micro-batches, one repeats the shortest
sample with weight zero, because a rank without a micro-batch would leave the collectives hanging.

Shapes: T tokens of the micro-batch that this rank holds, R of their logits that predict an output token, S sequences;
W the same as T or R of the whole micro-batch, before context parallelism gives each rank its share.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from egrc_kernels.masked_logprob import SamplingMasks
from numpy.typing import DTypeLike, NDArray

from egrc_mega.policy.balance import Load
from egrc_mega.policy.context import TokenSplit, held_tokens, ranges
from egrc_mega.policy.loss import LossRows
from egrc_mega.policy.masks import masks_of
from egrc_mega.policy.packed import WHOLE, PackedSequences, on_device, pack
from egrc_mega.types import TrainSample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed forward. T tokens are here, of them R whose logits predict an output token.

    With context parallelism both are this rank's share; `packed` describes the whole.
    """

    input_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor
    packed: PackedSequences
    rows_R: torch.Tensor
    """Positions in T whose logits predict the output tokens."""
    targets_R: torch.Tensor
    rows: LossRows
    masks: SamplingMasks | None
    """What the rows' targets were drawn from; None: all of them from the whole vocabulary."""
    flat_R: torch.Tensor
    """Place of each row among the outputs of all samples of the batch."""
    is_filler: bool


@dataclass(frozen=True, slots=True)
class Baselines:
    """Log-probs to compare with, flat over all outputs of the samples in order."""

    old: torch.Tensor | None = None
    """The policy's before the first update of the batch; None: this is the first."""
    reference: torch.Tensor | None = None
    """The reference model's."""

    def split(self, sizes: Sequence[int]) -> "list[Baselines]":
        """One for each update of a batch; `sizes` are numbers of output tokens."""
        parts = [
            [None] * len(sizes) if flat is None else flat.split(list(sizes)) for flat in (self.old, self.reference)
        ]
        return [Baselines(old, reference) for old, reference in zip(*parts, strict=True)]


def build_micro_batch(
    samples: Sequence[TrainSample],
    load: Load,
    baselines: Baselines,
    device: torch.device,
    split: TokenSplit = WHOLE,
    num_tokens: int | None = None,
) -> MicroBatch:
    """The tensors of a load, or of this rank's part of it. All index arithmetic is the host's.

    Sequences are padded as the split demands, and all tokens by a sequence of its own at the end, to `num_tokens` or
    to `packed_length`; no row sees padding.
    """
    own = [samples[index] for index in load.indices]
    lengths = [round_up(sample.num_tokens, split.sequence_multiple) for sample in own]
    padding = (num_tokens or packed_length(samples, load, split)) - sum(lengths)
    boundaries = np.cumsum([0, *lengths, *([padding] if padding else [])])
    ids_W = np.zeros(boundaries[-1], np.int64)
    for sample, start in zip(own, boundaries, strict=False):
        middle = start + len(sample.prompt_ids)
        ids_W[start:middle] = sample.prompt_ids
        ids_W[middle : middle + len(sample.output_ids)] = sample.output_ids
    # the logits of the token before predict an output token
    first_S = boundaries[: len(own)] + [len(sample.prompt_ids) - 1 for sample in own]
    rows_W = ranges(first_S, [len(sample.output_ids) for sample in own])
    held_T = held_tokens(boundaries.tolist(), split.context_size, split.context_rank)
    # a token of the whole -> its place here, or -1
    places_W = np.full(len(ids_W), -1)
    places_W[held_T] = np.arange(len(held_T))
    is_here_W = places_W[rows_W] >= 0

    targets_R = ids_W[rows_W + 1][is_here_W]
    positions_W = ranges(np.zeros_like(boundaries[1:]), np.diff(boundaries))
    return MicroBatch(
        input_ids_1T=on_device(ids_W[held_T][None], device),
        position_ids_1T=on_device(positions_W[held_T][None], device),
        packed=pack(boundaries.tolist(), device, split),
        rows_R=on_device(places_W[rows_W][is_here_W], device),
        targets_R=on_device(targets_R, device),
        rows=_loss_rows(samples, load, baselines, is_here_W, device),
        masks=masks_of(own, targets_R, is_here_W, device),
        flat_R=on_device(_flat_positions(samples, load)[is_here_W], device),
        is_filler=load.is_filler,
    )


def packed_length(samples: Sequence[TrainSample], load: Load, split: TokenSplit = WHOLE) -> int:
    """Tokens of a load on all ranks that share it, padding included."""
    own = sum(round_up(samples[index].num_tokens, split.sequence_multiple) for index in load.indices)
    return round_up(own, math.lcm(split.sequence_multiple, split.total_multiple))


def round_up(number: int, multiple: int) -> int:
    """The next multiple, or the number itself."""
    return number + -number % multiple


def joined(samples: Sequence[TrainSample], name: str, dtype: DTypeLike) -> NDArray[Any]:
    """An array field of the samples, end to end."""
    return np.concatenate([np.zeros(0, dtype), *(getattr(sample, name) for sample in samples)], dtype=dtype)


def flat_offsets(samples: Sequence[TrainSample]) -> NDArray[np.int64]:
    """[samples + 1] Start of each sample's outputs in the concatenation of all outputs, and the total at the end."""
    return np.cumsum([0, *(len(sample.output_ids) for sample in samples)])


def _flat_positions(samples: Sequence[TrainSample], load: Load) -> NDArray[np.int64]:
    """Of every output token of the load, its place among the outputs of all samples."""
    offsets, indices = flat_offsets(samples), np.array(load.indices)
    return ranges(offsets[indices], offsets[indices + 1] - offsets[indices])


def _loss_rows(
    samples: Sequence[TrainSample], load: Load, baselines: Baselines, is_here_W: NDArray[np.bool_], device: torch.device
) -> LossRows:
    """What the loss knows of the load's output tokens that are here."""
    own = [samples[index] for index in load.indices]
    flat_R = _flat_positions(samples, load)[is_here_W]

    def floats(name: str) -> torch.Tensor:
        return on_device(joined(own, name, np.float32)[is_here_W], device)

    def of_baseline(flat: torch.Tensor | None) -> torch.Tensor | None:
        return None if flat is None else on_device(flat.numpy()[flat_R], device)

    weights_R = floats("loss_weights")
    here_before = np.concatenate([[0], np.cumsum(is_here_W)])
    return LossRows(
        advantages_R=floats("advantages"),
        weights_R=torch.zeros_like(weights_R) if load.is_filler else weights_R,
        boundaries_S=on_device(here_before[flat_offsets(own)].astype(np.int32), device),
        rollout_logprobs_R=floats("rollout_logprobs"),
        old_logprobs_R=of_baseline(baselines.old),
        stated_old_logprobs_R=_stated(own, is_here_W, device),
        reference_logprobs_R=of_baseline(baselines.reference),
    )


def _stated(own: Sequence[TrainSample], is_here_W: NDArray[np.bool_], device: torch.device) -> torch.Tensor | None:
    """Old log-probs that a method states, NaN at the other tokens; None where it states none."""
    if all(sample.old_logprobs is None for sample in own):
        return None
    nothing = np.float32(np.nan)
    stated = [np.full(len(s.output_ids), nothing) if s.old_logprobs is None else s.old_logprobs for s in own]
    return on_device(np.concatenate(stated)[is_here_W], device)
