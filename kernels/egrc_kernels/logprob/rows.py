"""The op's primitives on one shard of the vocabulary, known to torch by name: Triton's or the reference's.

They are what `torch.compile` and fake tensors see; `shards` joins the shards of several ranks.
"""

import torch

from egrc_kernels.logprob import reference
from egrc_kernels.registry import uses_triton


@torch.library.custom_op("egrc::row_partials", mutates_args=())
def row_partials(
    logits: torch.Tensor, targets: torch.Tensor, start: int, num_real: int, temperature: float
) -> torch.Tensor:
    """See `reference.row_partials`; the logits stay as they are."""
    if uses_triton(logits):
        from egrc_kernels.logprob import triton

        return triton.row_partials(logits, targets, start, num_real, temperature)
    return reference.row_partials(logits.clone(), targets, start, num_real, temperature)


@row_partials.register_fake
def _(logits: torch.Tensor, targets: torch.Tensor, start: int, num_real: int, temperature: float) -> torch.Tensor:
    return logits.new_empty(6, logits.shape[0], dtype=torch.float32)


@torch.library.custom_op("egrc::row_gradients_", mutates_args={"logits"})
def row_gradients_(
    logits: torch.Tensor,
    targets: torch.Tensor,
    log_sums: torch.Tensor,
    grad_logprobs: torch.Tensor,
    entropies: torch.Tensor | None,
    grad_entropies: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
) -> None:
    """The op of `reference.row_gradients_`, by kernel or by reference."""
    rest = (targets, log_sums, grad_logprobs, entropies, grad_entropies, start, num_real, temperature)
    if uses_triton(logits):
        from egrc_kernels.logprob import triton

        triton.row_gradients(logits, logits, *rest)
    else:
        reference.row_gradients_(logits, *rest)


@torch.library.custom_op("egrc::row_gradients", mutates_args={"gradients"})
def row_gradients(
    logits: torch.Tensor,
    gradients: torch.Tensor,
    targets: torch.Tensor,
    log_sums: torch.Tensor,
    grad_logprobs: torch.Tensor,
    entropies: torch.Tensor | None,
    grad_entropies: torch.Tensor | None,
    start: int,
    num_real: int,
    temperature: float,
) -> None:
    """The same into other memory of any dtype, rounded once; the logits stay as they are."""
    rest = (targets, log_sums, grad_logprobs, entropies, grad_entropies, start, num_real, temperature)
    if uses_triton(logits):
        from egrc_kernels.logprob import triton

        triton.row_gradients(logits, gradients, *rest)
        return
    same = gradients if gradients.dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
    reference.row_gradients_(same.copy_(logits), *rest)
    if same is not gradients:
        gradients.copy_(same)
