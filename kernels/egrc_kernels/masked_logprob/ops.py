"""Logits of single pairs of a row and a token, and the gradients through them; known to torch by name.

The pairs of a step are a few for each row, where the vocabulary has a hundred thousand tokens: what they cost is
hidden beside the output layer's own product, so there is no kernel of its own.
"""

from collections.abc import Iterator

import torch

PIECE_BYTES = 2**23
"""Of one gathered factor in float32 that exists at a time on a CPU, where it stays in a cache;"""
PIECE_BYTES_GPU = 2**28
"""and on a GPU, where a launch must be worth its while."""


@torch.library.custom_op("egrc::pair_logits", mutates_args=())
def pair_logits(
    hidden: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor, start: int, num_real: int
) -> torch.Tensor:
    """[K] float32: hidden[row] . weight[token - start] of each pair; zero where the token is not in this shard."""
    logits_K = hidden.new_empty(len(rows), dtype=torch.float32)
    for piece in _pieces(hidden, len(rows)):
        own, is_here = _own(tokens[piece], start, num_real)
        products = hidden[rows[piece]].float() * weight[own].float()
        logits_K[piece] = products.sum(-1).where(is_here, 0.0)
    return logits_K


@pair_logits.register_fake
def _(hidden: torch.Tensor, _weight: torch.Tensor, rows: torch.Tensor, *_rest: object) -> torch.Tensor:
    return hidden.new_empty(len(rows), dtype=torch.float32)


@torch.library.custom_op("egrc::pair_gradients", mutates_args=())
def pair_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    slopes: torch.Tensor,
    rows: torch.Tensor,
    tokens: torch.Tensor,
    start: int,
    num_real: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by hidden states (this shard's share) and weight, summed in float32, from those by the pairs' logits.

    The order of the sums is fixed on a CPU, and on a GPU in torch's deterministic mode.
    """
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    for piece in _pieces(hidden, len(rows)):
        own, is_here = _own(tokens[piece], start, num_real)
        slope_K1 = slopes[piece].where(is_here, 0.0)[:, None]
        grad_hidden.index_add_(0, rows[piece], slope_K1 * weight[own].float())
        grad_weight.index_add_(0, own, slope_K1 * hidden[rows[piece]].float())
    return grad_hidden.to(hidden.dtype), grad_weight.to(weight.dtype)


@pair_gradients.register_fake
def _(hidden: torch.Tensor, weight: torch.Tensor, *_rest: object) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _own(tokens: torch.Tensor, start: int, num_real: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens' rows of this shard, or any row, and whether they are here."""
    own = tokens - start
    return own.clamp(0, max(0, num_real - 1)), (own >= 0) & (own < num_real)


def _pieces(hidden: torch.Tensor, num_pairs: int) -> Iterator[slice]:
    """Of nearly equal size: a GPU may add up a few rows in another order than many, so no few are left over."""
    most = max(1, (PIECE_BYTES_GPU if hidden.is_cuda else PIECE_BYTES) // (4 * hidden.shape[1]))
    number = max(1, -(-num_pairs // most))
    edges = [num_pairs * i // number for i in range(number + 1)]
    yield from map(slice, edges, edges[1:])
