"""Tensor arithmetic of the table: Hugging Face tensors <-> one full megatron parameter <-> its tensor-parallel shards.

Everything here is reshaping and concatenation: no value changes, so a round trip is bitwise exact.
"""

from collections.abc import Sequence

import torch

from egrc_mega.convert.family import Architecture, Kind, Rule


def to_megatron(rule: Rule, tensors: Sequence[torch.Tensor], architecture: Architecture) -> torch.Tensor:
    """Join the Hugging Face tensors of a rule into the full parameter (vocabulary not padded)."""
    if rule.kind is Kind.QKV:
        return _interleave_qkv(tensors, architecture)
    return torch.cat(list(tensors)) if rule.kind is Kind.GATED else tensors[0]


def to_hf(rule: Rule, full: torch.Tensor, architecture: Architecture) -> list[torch.Tensor]:
    """Undo `to_megatron`; padding rows of the vocabulary are cut."""
    if rule.kind is Kind.QKV:
        return _separate_qkv(full, architecture)
    if rule.kind is Kind.GATED:
        return [part.contiguous() for part in full.chunk(2)]
    return [full[: architecture.vocab_size] if rule.kind is Kind.VOCAB else full]


def shard(rule: Rule, full: torch.Tensor, rank: int, size: int, architecture: Architecture) -> torch.Tensor:
    """The part of a full parameter that tensor-parallel `rank` of `size` holds."""
    if size == 1 or rule.kind is Kind.REPLICATED:
        return full
    if rule.kind is Kind.VOCAB:
        missing = architecture.padded_vocab_size(size) - full.shape[0]
        full = torch.cat([full, full.new_zeros(missing, *full.shape[1:])])
    if rule.kind is Kind.GATED:
        return torch.cat([part.chunk(size)[rank] for part in full.chunk(2)])
    return full.chunk(size, dim=1 if rule.kind is Kind.ROW else 0)[rank]


def unshard(rule: Rule, shards: Sequence[torch.Tensor]) -> torch.Tensor:
    """Undo `shard` (vocabulary padding stays)."""
    if len(shards) == 1 or rule.kind is Kind.REPLICATED:
        return shards[0]
    if rule.kind is Kind.GATED:
        halves = [part.chunk(2) for part in shards]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves])
    return torch.cat(list(shards), dim=1 if rule.kind is Kind.ROW else 0)


def _interleave_qkv(tensors: Sequence[torch.Tensor], architecture: Architecture) -> torch.Tensor:
    groups = architecture.num_query_groups
    per_group = [tensor.reshape(groups, -1, *tensor.shape[1:]) for tensor in tensors]
    return torch.cat(per_group, dim=1).flatten(0, 1)


def _separate_qkv(full: torch.Tensor, architecture: Architecture) -> list[torch.Tensor]:
    groups, dim = architecture.num_query_groups, architecture.head_dim
    query_rows = architecture.num_heads // groups * dim
    per_group = full.reshape(groups, query_rows + 2 * dim, *full.shape[1:])
    return [part.flatten(0, 1).contiguous() for part in per_group.split([query_rows, dim, dim], dim=1)]
