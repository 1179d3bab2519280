"""How many rows or columns of logits exist at a time: as many as memory affords, in slices that fill the processors.

A product of few rows reads the whole weight for little work, and each slice more reads and writes a float32 sum again;
so slices are large where memory is free. The order of sums depends on them: who wants the same bits whatever else is in
memory gives `chunk_bytes`, or sets torch's deterministic mode, which takes a fixed size.
"""

import torch

CPU_BYTES, FIXED_BYTES = 2**23, 2**29
MOST_BYTES = 5 * 2**29
"""At most on a GPU, of float32 logits. At 32768 rows and a vocabulary of 152064 they are nine slices of columns in
backward, whose tiles fill 132 processors evenly, or eight of rows."""
KEPT = 4
"""Where gradients are made in forward: bytes of them that are kept, for each of logits. All rows of the above."""
LEAST_BYTES = 2**28
SHARED_BYTES = 2**29
"""Where ranks share a vocabulary and speak of each chunk: their free memory may differ, the rows they take may not."""
TILE_ROWS, TILE_COLUMNS = 128, 256
"""Of the matrix products' usual tiles: whole ones waste nothing."""


def affordable_bytes(tensor: torch.Tensor, beside: float) -> int:
    """Bytes of float32 logits for the tensor's device.

    Args:
        tensor: any on that device.
        beside: bytes of other things that exist with each byte of logits. Of what is free, two thirds are left to both.
    """
    if not tensor.is_cuda:
        return CPU_BYTES
    if torch.are_deterministic_algorithms_enabled():
        return FIXED_BYTES
    free = torch.cuda.mem_get_info(tensor.device)[0]
    free += torch.cuda.memory_reserved(tensor.device) - torch.cuda.memory_allocated(tensor.device)
    size = MOST_BYTES
    while size > LEAST_BYTES and 1.5 * (1 + beside) * size > free:
        size //= 2
    return size


def num_units(tensor: torch.Tensor) -> int:
    """Processors that take a tile of a product each; 1: tiles do not matter."""
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 1


def slice_size(total: int, most: int, across: int, units: int) -> int:
    """Of `total` rows, how many to take at a time when at most `most` may be.

    Equal slices of whole tiles, as few as possible; a few more where the tiles of the product [rows, `across`] then
    keep all units busier: a last wave of few tiles takes as long as a full one.
    """
    if units == 1 or most < TILE_ROWS or total <= most:
        return max(1, min(total, most))
    most -= most % TILE_ROWS
    fewest = -(-total // most)
    sizes = [_round_up(-(-total // count)) for count in range(fewest, fewest + max(2, fewest // 2))]
    return min((size for size in sizes if size <= most), key=lambda size: (_waves(total, size, across, units), -size))


def _waves(total: int, size: int, across: int, units: int) -> int:
    """Rounds of tiles that the products of all slices take."""
    whole, rest = divmod(total, size)
    return whole * _rounds(size, across, units) + (_rounds(rest, across, units) if rest else 0)


def _rounds(rows: int, across: int, units: int) -> int:
    tiles = -(-rows // TILE_ROWS) * -(-across // TILE_COLUMNS)
    return -(-tiles // units)


def _round_up(size: int) -> int:
    return -(-size // TILE_ROWS) * TILE_ROWS
