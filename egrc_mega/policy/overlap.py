"""Communication over data-parallel ranks behind computation: gradients behind backward, weights behind forward.

megatron-core's DDP does both, bucket by bucket. Weights that are still on their way are no one's business but the
modules' that compute with them, whose hooks wait: whoever else reads weights asks for all of them first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.sections.policy import MegatronSection


@dataclass(frozen=True, slots=True)
class Overlap:
    """What is done behind computation."""

    grad_reduce: bool
    param_gather: bool


def choose_overlap(config: TransformerConfig, section: MegatronSection) -> Overlap:
    """What the section says; where it says nothing, both with several data-parallel ranks on NCCL.

    An expert that no token of the last micro-batch chose has no gradient there, and its bucket would never be reduced.
    """
    ranks = parallel_state.get_data_parallel_group(with_context_parallel=True)
    pays = ranks.size() > 1 and dist.get_backend(ranks) == "nccl" and not config.num_moe_experts
    grad_reduce = pays if section.overlap_grad_reduce is None else section.overlap_grad_reduce
    # interleaved stages ask for the weights of their pieces in another order than they are gathered in
    can_gather = grad_reduce and section.use_distributed_optimizer and not config.virtual_pipeline_model_parallel_size
    param_gather = pays if section.overlap_param_gather is None else section.overlap_param_gather
    return Overlap(grad_reduce, param_gather and can_gather)


def gather_weights(model: Sequence[DistributedDataParallel]) -> None:
    """Wait until this rank has all weights of the last step, asking for those that are not on their way. Collective."""
    for module in model:
        if module.use_forward_hook:
            for group in module.bucket_groups + module.expert_parallel_bucket_groups:
                if group.param_gather_handle is not None or not group.param_gather_dispatched:
                    group.start_param_sync(force_sync=True)


def gather_weight(model: DistributedDataParallel, weight: torch.Tensor) -> None:
    """The same for one weight that is read without the module whose hook would wait."""
    group = model.param_to_bucket_group.get(weight)
    if model.use_forward_hook and group is not None:
        group.finish_param_sync()
