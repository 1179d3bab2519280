"""Floating-point operations of a model, from its table: what packing balances and MFU divides by.

A multiplication and an addition count as two; norms, rope, softmax and other element-wise work do not count. Causal
attention counts half of the square. Of experts only the chosen ones count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from egrc_mega.convert.family import Architecture, Kind

FORWARD_AND_BACKWARD = 3
"""Backward costs twice the forward: gradients of inputs and of weights. Recomputation is no progress."""


@dataclass(frozen=True, slots=True)
class FlopModel:
    """Forward operations of an architecture."""

    per_token: int
    """Linear layers of all blocks."""
    per_square: int
    """Attention of all blocks: times the square of each sequence's length."""
    per_row: int
    """Output layer, for a token whose logits are needed."""

    @classmethod
    def of(cls, architecture: Architecture) -> Self:
        """Counted over the table's matrices."""
        chosen = architecture.transformer_fields.get("moe_router_topk", 0)
        matrices = [
            math.prod(entry.shape)
            for entry in architecture.entries()
            if len(entry.shape) == 2
            and entry.kind is not Kind.VOCAB
            and (not entry.is_expert or entry.index[1] < chosen)
        ]
        return cls(
            per_token=2 * sum(matrices),
            # scores, and their product with the values: twice 2 s^2 d, halved by the causal mask
            per_square=2 * architecture.num_layers * architecture.num_heads * architecture.head_dim,
            per_row=2 * architecture.hidden_size * architecture.vocab_size,
        )

    def forward(self, lengths: Sequence[int], num_rows: int) -> int:
        """Of sequences of these lengths, `num_rows` of whose tokens need logits."""
        squares = sum(length * length for length in lengths)
        return sum(lengths) * self.per_token + squares * self.per_square + num_rows * self.per_row

    def training(self, lengths: Sequence[int], num_rows: int) -> int:
        """FLOPs of forward and backward together."""
        return FORWARD_AND_BACKWARD * self.forward(lengths, num_rows)


@dataclass(frozen=True, slots=True)
class Work:
    """What has been computed, over all ranks."""

    num_tokens: int = 0
    """Through a forward, or a forward and a backward."""
    flops: int = 0
    """Useful ones: recomputation, padding and fillers do not count."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.num_tokens + other.num_tokens, self.flops + other.flops)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.num_tokens - other.num_tokens, self.flops - other.flops)
