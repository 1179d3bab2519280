"""The fused forward's two kernels apart, and its product with other tiles: where its time goes on this card.

Without a GPU the launches are noted and not made (`egrc_mega.testing.launches`).
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from egrc_kernels.linear_logprob import triton as fused
from egrc_kernels.linear_logprob.join import join_tiles

from egrc_mega.testing.launches import noted_launches

HAS_GPU = torch.cuda.is_available()
TRIED = (
    fused.TILES[9],
    fused.Tiles(128, 256, 64, num_warps=8, num_stages=3),
    fused.Tiles(128, 256, 64, num_warps=8, num_stages=4, flatten=True),
    fused.Tiles(128, 128, 64, num_warps=8, num_stages=4),
)
Timed = Callable[..., None]
"""Of a name, a call and its useful TFLOP."""


def measure_tiles(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, name: str, tflop: float, timed: Timed
) -> None:
    """Each of `TRIED`, and the joining of its tiles alone at one temperature and at two."""
    if not HAS_GPU:
        hidden, weight, targets = (x.to("meta") for x in (hidden, weight, targets))
    units = torch.cuda.get_device_properties(0).multi_processor_count if HAS_GPU else 132
    with nullcontext() if HAS_GPU else noted_launches():
        for tiles in TRIED:
            label = f"{tiles.m}x{tiles.n}x{tiles.k}, {tiles.num_warps} warps, {tiles.num_stages} stages"
            label += ", reading ahead" * tiles.flatten
            product = partial(fused.fused_partials, hidden, weight, targets, 0, len(weight), 1.0, tiles)
            timed(f"{name} fused forward of {label}", partial(product, num_programs=units), tflop, 3)
        for temperature in (1.0, 0.7):
            _join(hidden, len(weight), temperature, partial(timed, f"{name} joining alone, T {temperature}"))


def _join(hidden: torch.Tensor, num_columns: int, temperature: float, timed: Timed) -> None:
    num_tiles = -(-num_columns // fused.TILES[9].n)
    tiles_N6T = torch.rand(num_tiles, 6, len(hidden), device=hidden.device)
    timed(partial(join_tiles, tiles_N6T, temperature), 0.0, 5, gigabytes=tiles_N6T.numel() * 4e-9)
