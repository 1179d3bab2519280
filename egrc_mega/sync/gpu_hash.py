"""SGLang's checksum of a tensor on a GPU, in torch, on any device.

Source: sglang 0.5.23, kernels/ops/memory/gpu_tensor_hash.py. All arithmetic is modulo 2**32: words are mixed with
their places, summed by tiles, and the tiles' sums mixed again; products wrap in int64, whose lower half is right all
the same.
"""

import torch

TILE_WORDS = 8192
TILES_AT_ONCE = 512
MASK = 2**32 - 1
SEED_1 = 0x243F6A88
SEED_2 = ((SEED_1 * 0x9E3779B1) ^ 0xDEADBEEF) & MASK


def gpu_hash(tensor: torch.Tensor) -> str:
    """16 hex digits of a tensor's bytes, in its own dtype."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    words = torch.nn.functional.pad(raw, (0, -raw.numel() % 4)).view(torch.int32)
    total = 0
    step = TILE_WORDS * TILES_AT_ONCE
    for start in range(0, words.numel(), step):
        for high, low in _tile_sums(words[start : start + step], start, words.numel() * 4):
            total += (high << 32) + low
    return f"{_splitmix64(total) if words.numel() else 0:016x}"


def _tile_sums(words: torch.Tensor, start: int, num_bytes: int) -> list[tuple[int, int]]:
    """The two sums of each tile, mixed with the tensor's size."""
    values = words.long() & MASK
    places = torch.arange(start, start + words.numel(), device=words.device) & MASK
    sums = []
    for seed, factor, turn in ((SEED_1, 0x27D4EB2D, 15), (SEED_2, 0x165667B1, 13)):
        mixed = _fmix32(values ^ ((places * factor + seed) & MASK) ^ _rotated(places, turn))
        tiles = torch.nn.functional.pad(mixed, (0, -mixed.numel() % TILE_WORDS)).view(-1, TILE_WORDS)
        sums.append(_fmix32((tiles.sum(1) & MASK) ^ (num_bytes & MASK)).tolist())
    return list(zip(*sums, strict=True))


def _rotated(x: torch.Tensor, turn: int) -> torch.Tensor:
    return ((x << turn) | (x >> (32 - turn))) & MASK


def _fmix32(x: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's finalizer of 32 bits."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B & MASK
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & MASK
    return x ^ (x >> 16)


def _splitmix64(x: int) -> int:
    mask = 2**64 - 1
    x &= mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)
