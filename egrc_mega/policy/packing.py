"""Lays the samples of a micro-batch end to end, as tensors: see `balance` for which samples those are.

Every micro-batch holds at least one sample: where there are fewer samples than micro-batches, one repeats the shortest
sample with weight zero, because a rank without a micro-batch would leave the collectives hanging.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from egrc_mega.policy.balance import Bin
from egrc_mega.types import TrainSample


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed forward. T tokens in all, R output tokens (the rows whose log-prob is wanted)."""

    input_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor
    packed: PackedSeqParams
    rows_R: torch.Tensor
    """Positions in T whose logits predict the output tokens."""
    targets_R: torch.Tensor
    coefficients_R: torch.Tensor
    """Advantage times loss weight."""
    old_logprobs_R: torch.Tensor | None
    spans: tuple[tuple[int, int, int], ...]
    """(start in R, end in R, start in the batch's flat output) of each sample; empty for a filler."""


def flat_offsets(samples: Sequence[TrainSample]) -> list[int]:
    """Start of each sample's outputs in the concatenation of all outputs, and the total at the end."""
    offsets = [0]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample.output_ids))
    return offsets


def build_micro_batch(
    samples: Sequence[TrainSample],
    bin_: Bin,
    old_logprobs: torch.Tensor | None,
    device: torch.device,
    multiple_of: int = 1,
) -> MicroBatch:
    """The tensors of a bin. `old_logprobs` is flat over all outputs of `samples`, or None.

    T is padded to `multiple_of` by a sequence of its own at the end, which no row of the outputs sees.
    """
    offsets = flat_offsets(samples)
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    coefficients: list[float] = []
    boundaries, spans = [0], []
    for index in bin_.indices:
        sample = samples[index]
        spans.append((len(rows), len(rows) + len(sample.output_ids), offsets[index]))
        first = len(ids) + len(sample.prompt_ids) - 1
        rows.extend(range(first, first + len(sample.output_ids)))
        ids.extend(sample.prompt_ids + sample.output_ids)
        positions.extend(range(sample.num_tokens))
        advantage = 0.0 if bin_.is_filler else sample.advantage
        coefficients.extend(advantage * weight for weight in sample.loss_weights)
        boundaries.append(len(ids))
    if padding := -len(ids) % multiple_of:
        ids.extend([0] * padding)
        positions.extend(range(padding))
        boundaries.append(len(ids))
    old = None
    if old_logprobs is not None:
        old = torch.cat([old_logprobs[start : start + end - begin] for begin, end, start in spans]).to(device)
    input_ids_1T = torch.tensor([ids], device=device)
    rows_R = torch.tensor(rows, device=device)
    return MicroBatch(
        input_ids_1T=input_ids_1T,
        position_ids_1T=torch.tensor([positions], device=device),
        packed=packed_params(boundaries, device),
        rows_R=rows_R,
        targets_R=input_ids_1T[0, rows_R + 1],
        coefficients_R=torch.tensor(coefficients, dtype=torch.float32, device=device),
        old_logprobs_R=old,
        spans=() if bin_.is_filler else tuple(spans),
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
