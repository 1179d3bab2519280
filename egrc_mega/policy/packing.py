"""Lays the samples of a micro-batch end to end, as tensors: see `balance` for which samples those are.

Every micro-batch holds at least one sample: where there are fewer samples than micro-batches, one repeats the shortest
sample with weight zero, because a rank without a micro-batch would leave the collectives hanging.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from egrc_mega.policy.balance import Bin
from egrc_mega.policy.loss import LossRows
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
    rows: LossRows
    spans: tuple[tuple[int, int, int], ...]
    """(start in R, end in R, start in the batch's flat output) of each sample; empty for a filler."""


def flat_offsets(samples: Sequence[TrainSample]) -> list[int]:
    """Start of each sample's outputs in the concatenation of all outputs, and the total at the end."""
    offsets = [0]
    for sample in samples:
        offsets.append(offsets[-1] + len(sample.output_ids))
    return offsets


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
    multiple_of: int = 1,
) -> MicroBatch:
    """The tensors of a bin. T is padded to `multiple_of` by a sequence of its own, which no row of the outputs sees."""
    offsets = flat_offsets(samples)
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    boundaries, spans = [0], []
    for index in bin_.indices:
        sample = samples[index]
        spans.append((len(rows), len(rows) + len(sample.output_ids), offsets[index]))
        first = len(ids) + len(sample.prompt_ids) - 1
        rows.extend(range(first, first + len(sample.output_ids)))
        ids.extend(sample.prompt_ids + sample.output_ids)
        positions.extend(range(sample.num_tokens))
        boundaries.append(len(ids))
    if padding := -len(ids) % multiple_of:
        ids.extend([0] * padding)
        positions.extend(range(padding))
        boundaries.append(len(ids))
    input_ids_1T = torch.tensor([ids], device=device)
    rows_R = torch.tensor(rows, device=device)
    return MicroBatch(
        input_ids_1T=input_ids_1T,
        position_ids_1T=torch.tensor([positions], device=device),
        packed=packed_params(boundaries, device),
        rows_R=rows_R,
        targets_R=input_ids_1T[0, rows_R + 1],
        rows=_loss_rows([samples[index] for index in bin_.indices], spans, bin_, baselines, device),
        spans=() if bin_.is_filler else tuple(spans),
    )


def _loss_rows(
    samples: Sequence[TrainSample],
    spans: Sequence[tuple[int, int, int]],
    bin_: Bin,
    baselines: Baselines,
    device: torch.device,
) -> LossRows:
    def floats(values: Iterable[float]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.float32, device=device)

    def pick(flat: torch.Tensor | None) -> torch.Tensor | None:
        if flat is None:
            return None
        return torch.cat([flat[start : start + end - begin] for begin, end, start in spans]).to(device)

    sequences = [i for i, sample in enumerate(samples) for _token in sample.output_ids]
    return LossRows(
        advantages_R=floats(sample.advantage for sample in samples for _token in sample.output_ids),
        weights_R=floats(0.0 if bin_.is_filler else w for sample in samples for w in sample.loss_weights),
        sequences_R=torch.tensor(sequences, device=device),
        rollout_logprobs_R=floats(logprob for sample in samples for logprob in sample.rollout_logprobs),
        old_logprobs_R=pick(baselines.old),
        reference_logprobs_R=pick(baselines.reference),
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
