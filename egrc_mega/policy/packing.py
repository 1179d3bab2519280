"""Lays the samples of a micro-batch end to end, as tensors: see `balance` for which samples those are.

Every micro-batch holds at least one sample: where there are fewer samples than micro-batches, one repeats the shortest
sample with weight zero, because a rank without a micro-batch would leave the collectives hanging.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from egrc_mega.policy.balance import Bin
from egrc_mega.policy.context import TokenSplit, held_tokens
from egrc_mega.policy.loss import LossRows
from egrc_mega.types import TrainSample

WHOLE = TokenSplit()


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed forward. T tokens are here, of them R whose logits predict an output token.

    With context parallelism both are this rank's share; `packed` describes the whole.
    """

    input_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor
    packed: PackedSeqParams
    rows_R: torch.Tensor
    """Positions in T whose logits predict the output tokens."""
    targets_R: torch.Tensor
    rows: LossRows
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
    bin_: Bin,
    baselines: Baselines,
    device: torch.device,
    split: TokenSplit = WHOLE,
    num_tokens: int | None = None,
) -> MicroBatch:
    """The tensors of a bin, or of this rank's part of it.

    Sequences are padded as the split demands, and all tokens by a sequence of its own at the end, to `num_tokens` or
    to `packed_length`; no row sees padding.
    """
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    boundaries = [0]

    def close_sequence(length: int) -> None:
        positions.extend(range(length))
        ids.extend([0] * (len(positions) - len(ids)))
        boundaries.append(len(ids))

    for sample in (samples[index] for index in bin_.indices):
        first = len(ids) + len(sample.prompt_ids) - 1
        rows.extend(range(first, first + len(sample.output_ids)))
        ids.extend(sample.prompt_ids + sample.output_ids)
        close_sequence(round_up(sample.num_tokens, split.sequence_multiple))
    padding = (num_tokens or packed_length(samples, bin_, split)) - len(ids)
    if padding:
        close_sequence(padding)
    held_T = torch.tensor(held_tokens(boundaries, split.context_size, split.context_rank), device=device)
    ids_W, rows_W = torch.tensor(ids, device=device), torch.tensor(rows, device=device)
    # a token of the whole -> its place here, or -1
    places_W = torch.full_like(ids_W, -1).index_copy(0, held_T, torch.arange(len(held_T), device=device))
    is_here_W = places_W[rows_W] >= 0
    return MicroBatch(
        input_ids_1T=ids_W[held_T][None],
        position_ids_1T=torch.tensor(positions, device=device)[held_T][None],
        packed=packed_params(boundaries, device),
        rows_R=places_W[rows_W][is_here_W],
        targets_R=ids_W[rows_W + 1][is_here_W],
        rows=_loss_rows(samples, bin_, baselines, device).where(is_here_W),
        flat_R=_flat_positions(samples, bin_, device)[is_here_W],
        is_filler=bin_.is_filler,
    )


def packed_length(samples: Sequence[TrainSample], bin_: Bin, split: TokenSplit = WHOLE) -> int:
    """Tokens of a bin on all ranks that share it, padding included."""
    own = sum(round_up(samples[index].num_tokens, split.sequence_multiple) for index in bin_.indices)
    return round_up(own, math.lcm(split.sequence_multiple, split.total_multiple))


def round_up(number: int, multiple: int) -> int:
    """The next multiple, or the number itself."""
    return number + -number % multiple


def flat_offsets(samples: Sequence[TrainSample]) -> list[int]:
    """Start of each sample's outputs in the concatenation of all outputs, and the total at the end."""
    offsets = [0]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample.output_ids))
    return offsets


def _flat_positions(samples: Sequence[TrainSample], bin_: Bin, device: torch.device) -> torch.Tensor:
    """Of every output token of the bin, its place among the outputs of all samples."""
    offsets = flat_offsets(samples)
    return torch.tensor([i for index in bin_.indices for i in range(offsets[index], offsets[index + 1])], device=device)


def _loss_rows(samples: Sequence[TrainSample], bin_: Bin, baselines: Baselines, device: torch.device) -> LossRows:
    own = [samples[index] for index in bin_.indices]
    flat = _flat_positions(samples, bin_, torch.device("cpu"))

    def floats(values: Iterable[float]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.float32, device=device)

    return LossRows(
        advantages_R=floats(sample.advantage for sample in own for _token in sample.output_ids),
        weights_R=floats(0.0 if bin_.is_filler else w for sample in own for w in sample.loss_weights),
        boundaries_S=torch.tensor(flat_offsets(own), dtype=torch.int32, device=device),
        rollout_logprobs_R=floats(logprob for sample in own for logprob in sample.rollout_logprobs),
        old_logprobs_R=None if baselines.old is None else baselines.old[flat].to(device),
        reference_logprobs_R=None if baselines.reference is None else baselines.reference[flat].to(device),
    )


def packed_params(boundaries: list[int], device: torch.device) -> PackedSeqParams:
    """Megatron's description of packed sequences; `boundaries` starts with 0 and ends with the number of tokens."""
    cu_seqlens = torch.tensor(boundaries, dtype=torch.int32, device=device)
    longest = max(end - start for start, end in pairwise(boundaries))
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
