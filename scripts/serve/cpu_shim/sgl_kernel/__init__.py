"""Stands for SGLang's kernel wheel, which has no build for CPUs without AVX-512: a name that is called says so.

Dense text models on the torch_native backend call none of them, but for the hash behind seeded sampling: 32-bit
MurmurHash3 of (seed, position, column), as the wheel computes it.
"""

import torch

MASK = 0xFFFFFFFF


def _times(a: torch.Tensor, factor: int) -> torch.Tensor:
    """Product modulo 2^32 in int64, whose own product would overflow."""
    high, low = (a >> 16) * factor & MASK, (a & 0xFFFF) * factor
    return ((high << 16) + low) & MASK


def _rotate(a: torch.Tensor, bits: int) -> torch.Tensor:
    return ((a << bits) | (a >> (32 - bits))) & MASK


def _mix(state: torch.Tensor, word: torch.Tensor) -> torch.Tensor:
    state = state ^ _times(_rotate(_times(word, 0xCC9E2D51), 15), 0x1B873593)
    return (_times(_rotate(state, 13), 5) + 0xE6546B64) & MASK


def _murmur_hash32(seed: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """uint32 [rows, columns]."""
    seed = seed.view(torch.int64)[:, None]
    state = torch.zeros_like(seed)
    words = (seed & MASK, (seed >> 32) & MASK, positions.long()[:, None] & MASK, columns.long()[None, :] & MASK)
    for word in words:
        state = _mix(state, word)
    state = state ^ 16
    state = _times(state ^ (state >> 16), 0x85EBCA6B)
    state = _times(state ^ (state >> 13), 0xC2B2AE35)
    return (state ^ (state >> 16)).to(torch.uint32)


_library = torch.library.Library("sgl_kernel", "FRAGMENT")
_library.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor")
_library.impl("murmur_hash32_cpu", _murmur_hash32, "CPU")


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args, **_kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: a CPU server has no such kernel")

    return missing
