"""Bytes of the output layer on the last pipeline stage: logits exist for a chunk of rows only, or not at all.

Follows `egrc_kernels.linear_logprob` (`sizes.py`, `in_forward.py`), which takes more rows at a time where memory is
free.
"""

from egrc_mega.convert.family import Architecture
from egrc_mega.sections.policy import MegatronSection

MOST_BYTES, LEAST_BYTES, SHARED_BYTES, KEPT = 5 * 2**29, 2**28, 2**29, 4
"""Of float32 logits at most, at least, and where ranks share a vocabulary; and how many times as much of gradients may
be kept: `sizes.py`."""


def head_bytes(
    architecture: Architecture, section: MegatronSection, num_rows: int, logits_bytes: int, makes_logits: bool
) -> float:
    """Bytes beside the layers' own while log-probs and their gradient are made.

    Args:
        num_rows: tokens of the micro-batch whose logits are needed: at most all of them.
        logits_bytes: of float32 logits at a time, see `affordable`.
        makes_logits: the gradient comes from logits, as it does but for token losses in bf16.
    """
    width = 2 if section.bf16 else 4
    tensor = section.tensor_model_parallel_size
    columns = architecture.padded_vocab_size(tensor) // tensor
    logits = min(logits_bytes, 4 * num_rows * columns) if makes_logits else 0
    gradients = min(KEPT * logits_bytes, width * num_rows * columns)
    # the hidden states are gathered, then the rows picked; their gradient has the same size
    hidden = 3 * width * num_rows * architecture.hidden_size
    return logits + gradients + hidden + 4 * columns * architecture.hidden_size


def affordable(free_bytes: float) -> int:
    """Bytes of float32 logits that the kernel takes where so much is free: `sizes.affordable_bytes`."""
    size = MOST_BYTES
    while size > LEAST_BYTES and 1.5 * (1 + KEPT) * size > free_bytes:
        size //= 2
    return size
