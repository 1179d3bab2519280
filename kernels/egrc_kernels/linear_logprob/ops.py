"""The op as torch sees it: its whole forward and its whole gradient have one name each, whatever they are made of.

torch's compiler and fake tensors do not look inside.
"""

import torch

from egrc_kernels.linear_logprob.chunks import gradients_by_columns, partials_by_rows
from egrc_kernels.linear_logprob.fused import can_fuse, fused_partials
from egrc_kernels.linear_logprob.sizes import affordable_bytes
from egrc_kernels.logprob.shards import Shard


@torch.library.custom_op("egrc::linear_partials", mutates_args=())
def linear_partials(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    start: int,
    num_real: int,
    temperature: float,
    chunk_bytes: int | None,
    may_fuse: bool,
) -> torch.Tensor:
    """[6, T], see `logprob.reference.row_partials`: by the fused kernel where it may and can, else in chunks."""
    shard = Shard(start, num_real)
    if may_fuse and can_fuse(hidden, weight):
        return fused_partials(hidden, weight, targets, shard, temperature)
    size = chunk_bytes or affordable_bytes(hidden, 0.5)
    return partials_by_rows(hidden, weight, targets, shard, temperature, size)


@linear_partials.register_fake
def _(hidden: torch.Tensor, *_rest: object) -> torch.Tensor:
    return hidden.new_empty(6, hidden.shape[0], dtype=torch.float32)


@torch.library.custom_op("egrc::linear_gradients", mutates_args=())
def linear_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    log_sums: torch.Tensor,
    grad_logprobs: torch.Tensor,
    entropies: torch.Tensor | None,
    grad_entropies: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
    chunk_bytes: int | None,
    may_fuse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op of `chunks.gradients_by_columns`, which says shapes and arguments: fused where it may and can."""
    per_row = (targets, log_sums, grad_logprobs, entropies, grad_entropies)
    size = chunk_bytes or affordable_bytes(hidden, 0.5)
    is_fused = may_fuse and can_fuse(hidden, weight)
    return gradients_by_columns(hidden, weight, *per_row, Shard(start, num_real), temperature, size, is_fused)


@linear_gradients.register_fake
def _(hidden: torch.Tensor, weight: torch.Tensor, *_rest: object) -> tuple[torch.Tensor, torch.Tensor]:
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)
