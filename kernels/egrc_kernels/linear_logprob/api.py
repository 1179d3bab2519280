"""The public entry of the op: checks, then dispatch."""

from typing import NamedTuple

import torch
from torch.distributed import ProcessGroup

from egrc_kernels.linear_logprob.reference import LinearLogprob

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Of one chunk's float32 logits: small enough for memory, large enough for the matrix units."""


class LogprobStats(NamedTuple):
    """Float32 [T] each, equal on all ranks of the group. The gradient flows through `logprob_T` only."""

    logprob_T: torch.Tensor
    """Of the targets, under softmax(logits / temperature)."""
    entropy_T: torch.Tensor
    """At the temperature, nats."""
    entropy_at_one_T: torch.Tensor
    """At temperature 1, nats."""


def linear_logprob(
    hidden_TH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_T: torch.Tensor,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    group: ProcessGroup | None = None,
    chunk_rows: int | None = None,
) -> LogprobStats:
    """Log-prob of each target and entropy of each row under softmax(hidden @ weight.T / temperature).

    At any time the logits of `chunk_rows` rows are in memory; backward computes them again.

    Args:
        hidden_TH: [T, H], float32, bfloat16 or float16.
        weight_VH: [V / group size, H] of the same dtype; this rank's shard of the vocabulary.
        targets_T: [T] int64, global vocabulary ids.
        temperature: positive divisor of the logits.
        vocab_size: rows of the weight from this global index on are padding and take no part; None: every row is real.
        group: tensor-parallel group that shares the vocabulary; None: the whole vocabulary is here. The gradient of
            `hidden_TH` is this rank's share; megatron's `copy_to_tensor_model_parallel_region` adds the shares.
        chunk_rows: rows whose logits are computed at once; None: as many as fit into `CHUNK_BYTES`.

    Raises:
        ValueError: wrong shape, dtype or device, or a temperature that is not positive.
    """
    if hidden_TH.dim() != 2 or weight_VH.dim() != 2 or hidden_TH.shape[1] != weight_VH.shape[1]:
        shapes = f"{tuple(hidden_TH.shape)} and {tuple(weight_VH.shape)}"
        raise ValueError(f"hidden_TH must be [T, H] and weight_VH [V, H], got {shapes}")
    if targets_T.shape != hidden_TH.shape[:1] or targets_T.dtype != torch.int64:
        raise ValueError(f"targets_T must be int64 [T], got {targets_T.dtype} {tuple(targets_T.shape)}")
    if hidden_TH.dtype != weight_VH.dtype or hidden_TH.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"hidden_TH and weight_VH must share a dtype, got {hidden_TH.dtype} and {weight_VH.dtype}")
    if not hidden_TH.device == weight_VH.device == targets_T.device:
        raise ValueError(f"devices differ: {hidden_TH.device}, {weight_VH.device}, {targets_T.device}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if chunk_rows is None:
        chunk_rows = max(1, CHUNK_BYTES.get(hidden_TH.device.type, 2**23) // (4 * weight_VH.shape[0]))
    rows = LinearLogprob.apply(hidden_TH, weight_VH, targets_T, temperature, vocab_size, group, chunk_rows)
    return LogprobStats(*rows)
