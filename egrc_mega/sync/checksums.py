"""What the servers' parameters must hash to, computed from the tensors on their way, and the first that differs.

A server on a CPU hashes a parameter to the first 8 bytes of its SHA-256, one on a GPU as `gpu_hash` says (sglang
0.5.23, srt/utils/weight_checker.py). SGLang joins and splits tensors in its own way, so each is hashed under its
Hugging Face name and, per rank of every layout in use, under SGLang's.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from egrc_mega.convert.family import Architecture, Entry, Kind
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.sync.gpu_hash import gpu_hash

VOCAB_PADDING = 64
"""SGLang pads its embedding's rows to a multiple of this."""
MLP_PADDING = 32
"""On a CPU it pads the MLP's inner size to a multiple of this times the ranks."""
JOINED = {Kind.QKV: ("q_proj", "qkv_proj"), Kind.GATED: ("gate_proj", "gate_up_proj")}
"""Hugging Face's name of the first part -> SGLang's of the whole."""


def checksum(*parts: torch.Tensor) -> str:
    """Of the parts laid end to end."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class Checksums:
    """Of one version. Experts' tensors are not compared: SGLang stacks them in its own way.

    Args:
        dtype: in which weights are sent. Servers on a CPU keep them in float32, on a GPU as they come.
        num_ranks: of each server.
    """

    def __init__(
        self, architecture: Architecture, dtype: torch.dtype, num_ranks: Iterable[int], device: Literal["cpu", "cuda"]
    ) -> None:
        self.dtype, self.device = dtype, device
        self.num_groups = architecture.num_query_groups
        self._entry_of = {name: entry for entry in architecture.entries() if not entry.is_expert for name in entry.hf}
        self._parts: dict[str, torch.Tensor] = {}
        self.whole: dict[str, str] = {}
        """By Hugging Face names."""
        self.by_rank: dict[int, list[dict[str, str]]] = {count: [{} for _ in range(count)] for count in num_ranks}
        """By number of ranks, by rank, by SGLang's names."""

    def watch(self, tensors: HfTensors) -> HfTensors:
        """Pass `tensors` on, and hash them."""
        for name, tensor in tensors:
            if name in self._entry_of:
                sent = tensor.detach().to(self.dtype, copy=True)
                self._note(name, sent.float() if self.device == "cpu" else sent)
            yield name, tensor

    def _note(self, name: str, tensor: torch.Tensor) -> None:
        self.whole[name] = self._hash(tensor)
        self._parts[name] = tensor
        entry = self._entry_of[name]
        if all(part in self._parts for part in entry.hf):
            parts = [self._parts.pop(part) for part in entry.hf]
            old, new = JOINED.get(entry.kind, ("", ""))
            for count, ranks in self.by_rank.items():
                for rank, found in enumerate(ranks):
                    found[entry.hf[0].replace(old, new)] = self._hash(*self._shard(entry, parts, rank, count))

    def _hash(self, *parts: torch.Tensor) -> str:
        """Of the parts laid end to end."""
        if self.device == "cpu":
            return checksum(*parts)
        return gpu_hash(torch.cat([part.reshape(-1) for part in parts]))

    def _shard(self, entry: Entry, parts: list[torch.Tensor], rank: int, count: int) -> list[torch.Tensor]:
        """What SGLang keeps of an entry on a rank of `count`, in order."""
        mlp_padding = MLP_PADDING * count if self.device == "cpu" else 1
        if entry.kind is Kind.REPLICATED:
            return parts
        if entry.kind is Kind.ROW:
            padding = mlp_padding if "mlp" in entry.hf[0] else 1
            return [_padded(parts[0], 1, padding).chunk(count, 1)[rank]]
        if entry.kind is Kind.VOCAB:
            return [_padded(parts[0], 0, VOCAB_PADDING).chunk(count)[rank]]
        if entry.kind is Kind.GATED:
            return [_padded(part, 0, mlp_padding).chunk(count)[rank] for part in parts]
        if entry.kind is Kind.QKV and self.num_groups < count:
            # a group's keys and values stand on several ranks
            q, k, v = parts
            group = rank * self.num_groups // count
            return [q.chunk(count)[rank], k.chunk(self.num_groups)[group], v.chunk(self.num_groups)[group]]
        return [part.chunk(count)[rank] for part in parts]

    def difference(self, served: Sequence[dict[str, str]]) -> str | None:
        """In words, the first parameter that a server (its ranks in order) does not hold as we do; None: all equal."""
        compared = [{n: found for n, found in rank.items() if ".experts." not in n} for rank in served]
        is_whole = len(served) == 1 and compared[0].keys() <= self.whole.keys()
        all_expected = [self.whole] if is_whole else self.by_rank.get(len(served))
        if all_expected is None:
            return f"it has parameters on {len(served)} ranks, and said {sorted(self.by_rank)} before"
        for rank, (found, expected) in enumerate(zip(compared, all_expected, strict=True)):
            for name in [*expected, *(name for name in found if name not in expected)]:
                if found.get(name) != expected.get(name) and not _is_tied(name, found):
                    return f"{name} on rank {rank} is {found.get(name)}, the trainer's is {expected.get(name)}"
        return None


def _padded(tensor: torch.Tensor, dim: int, multiple: int) -> torch.Tensor:
    """Zeros at the end of `dim`, up to a multiple."""
    missing = list(tensor.shape)
    missing[dim] = -tensor.shape[dim] % multiple
    return torch.cat([tensor, tensor.new_zeros(missing)], dim)


def _is_tied(name: str, found: dict[str, str]) -> bool:
    """The output layer of a model with tied embeddings may be listed or not."""
    return name == "lm_head.weight" and name not in found
