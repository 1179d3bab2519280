"""The public entry of the op: checks, then dispatch."""

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.logprob.reference import LogprobEntropy


def logprob_entropy(
    logits_TV: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each target and entropy of each row under softmax(logits / temperature).

    Args:
        logits_TV: [T, V / group size], float32, bfloat16 or float16; this rank's shard of the vocabulary.
        targets_T: [T] int64, global vocabulary ids.
        temperature: positive divisor of the logits.
        vocab_size: columns from this global index on are padding and take no part; None: every column is real.
        group: tensor-parallel group that shares the vocabulary; None: the whole vocabulary is here.

    Returns:
        (logprob_T, entropy_T): float32 [T], equal on all ranks of the group. The gradient flows through logprob only.

    Raises:
        ValueError: wrong rank, dtype or device, or a temperature that is not positive.
    """
    if logits_TV.dim() != 2 or targets_T.shape != logits_TV.shape[:1]:
        raise ValueError(
            f"logits_TV must be [T, V] and targets_T [T], got {tuple(logits_TV.shape)} and {tuple(targets_T.shape)}"
        )
    if not logits_TV.is_floating_point() or logits_TV.dtype == torch.float64:
        raise ValueError(f"logits_TV must be float32, bfloat16 or float16, got {logits_TV.dtype}")
    if targets_T.dtype != torch.int64 or targets_T.device != logits_TV.device:
        raise ValueError(f"targets_T must be int64 on {logits_TV.device}, got {targets_T.dtype} on {targets_T.device}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return LogprobEntropy.apply(logits_TV, targets_T, temperature, vocab_size, group)
