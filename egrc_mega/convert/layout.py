"""Tensor arithmetic of the table: Hugging Face tensors <-> one whole megatron parameter <-> its tensor-parallel shards.

Everything here is reshaping and concatenation: no value changes, so a round trip is bitwise exact.
"""

from collections.abc import Sequence

import torch

from egrc_mega.convert.family import Architecture, Entry, Kind
from egrc_mega.convert.shapes import split_dimension


def to_megatron(entry: Entry, tensors: Sequence[torch.Tensor], architecture: Architecture) -> torch.Tensor:
    """Join the Hugging Face tensors of an entry into the whole parameter (vocabulary not padded)."""
    pieces = [piece for _row, piece in to_pieces(entry, tensors, architecture)]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def to_pieces(
    entry: Entry, tensors: Sequence[torch.Tensor], architecture: Architecture
) -> list[tuple[int, torch.Tensor]]:
    """The parameter in pieces (first row, rows), copying only what must be interleaved."""
    if entry.kind is Kind.QKV:
        return [(0, _interleave_qkv(tensors, architecture))]
    return list(zip(first_rows(entry), tensors, strict=True))


def first_rows(entry: Entry) -> list[int]:
    """Where in the whole parameter each Hugging Face tensor begins (not for QKV, which interleaves them)."""
    assert entry.kind is not Kind.QKV
    return [sum(shape[0] for shape in entry.shapes[:i]) for i in range(len(entry.shapes))]


def to_hf(entry: Entry, full: torch.Tensor, architecture: Architecture) -> list[torch.Tensor]:
    """Undo `to_megatron`; padding rows of the vocabulary are cut."""
    if entry.kind is Kind.QKV:
        return _separate_qkv(full, architecture)
    starts = first_rows(entry)
    return [full[start : start + shape[0]] for start, shape in zip(starts, entry.shapes, strict=True)]


def shard(entry: Entry, full: torch.Tensor, rank: int, size: int, architecture: Architecture) -> torch.Tensor:
    """The part of a whole parameter that tensor-parallel `rank` of `size` holds."""
    dimension = split_dimension(entry)
    if size == 1 or dimension is None:
        return full
    if entry.kind is Kind.VOCAB:
        missing = architecture.padded_vocab_size(size) - full.shape[0]
        full = torch.cat([full, full.new_zeros(missing, *full.shape[1:])])
    if entry.kind is Kind.GATED:
        return torch.cat([part.chunk(size)[rank] for part in full.chunk(2)])
    return full.chunk(size, dim=dimension)[rank]


def unshard(entry: Entry, shards: Sequence[torch.Tensor]) -> torch.Tensor:
    """Undo `shard` (vocabulary padding stays)."""
    dimension = split_dimension(entry)
    if len(shards) == 1 or dimension is None:
        return shards[0]
    if entry.kind is Kind.GATED:
        halves = [part.chunk(2) for part in shards]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves])
    return torch.cat(list(shards), dim=dimension)


def _interleave_qkv(tensors: Sequence[torch.Tensor], architecture: Architecture) -> torch.Tensor:
    groups = architecture.num_query_groups
    per_group = [tensor.reshape(groups, -1, *tensor.shape[1:]) for tensor in tensors]
    return torch.cat(per_group, dim=1).flatten(0, 1)


def _separate_qkv(full: torch.Tensor, architecture: Architecture) -> list[torch.Tensor]:
    groups, dim = architecture.num_query_groups, architecture.head_dim
    query_rows = architecture.num_heads // groups * dim
    per_group = full.reshape(groups, query_rows + 2 * dim, *full.shape[1:])
    return [part.flatten(0, 1).contiguous() for part in per_group.split([query_rows, dim, dim], dim=1)]
