"""The norm of all gradients, and clipping by it: one pass over them each, and one number that the host waits for.

megatron-core's stand-ins for Transformer Engine's and apex's multi-tensor kernels read a number from the device for
every gradient, and copy what they scale. Here they are replaced by torch's own multi-tensor operations, whose
arithmetic and order are the same: on a CPU not a bit of a run differs.
"""

from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer, clip_grads
from megatron.core.utils import local_multi_tensor_l2_norm, local_multi_tensor_scale


def install_multi_tensor_operations() -> None:
    """Put torch's in the place of megatron's stand-ins. Those of Transformer Engine and apex stay."""
    if clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
        clip_grads.l2_norm_impl = _norm
    if clip_grads.multi_tensor_scale_impl is local_multi_tensor_scale:
        clip_grads.multi_tensor_scale_impl = _scale_in_place


def _norm(
    _chunk_size: int, _noop: torch.Tensor, tensor_lists: list[list[torch.Tensor]], _per_tensor: bool
) -> tuple[torch.Tensor, None]:
    """[1], on the device of the tensors, which nobody waits for here."""
    [tensors] = tensor_lists
    # a row: a norm over one axis would add up in another order
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))[None]).reshape(1), None


def _scale_in_place(
    _chunk_size: int, _noop: torch.Tensor, tensor_lists: list[list[torch.Tensor]], factor: float
) -> None:
    sources, targets = tensor_lists
    assert all(source is target for source, target in zip(sources, targets, strict=True)), "only what is clipped"
    torch._foreach_mul_(targets, factor)


def clip(optimizer: MegatronOptimizer, norm: float, max_norm: float) -> None:
    """Scale the gradients so that their norm, which the caller knows, is at most `max_norm`; 0 lets them be."""
    if max_norm <= 0:
        return
    for inner in optimizer.chained_optimizers:
        parameters: list[Any] = inner.get_parameters()
        if parameters:
            is_decoupled = inner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8
            clip_grads.clip_grad_by_total_norm_fp32(parameters, max_norm, norm, is_decoupled)
