"""megatron-core's DDP wrapper and optimizer, and one guarded optimizer step."""

import math

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.config.schema import MegatronSection
from egrc_mega.errors import PolicyError


def wrap_model(model: GPTModel, config: TransformerConfig, section: MegatronSection) -> DistributedDataParallel:
    """Megatron's DDP: one gradient buffer in fp32; sums over data-parallel ranks (see `calculate_per_token_loss`)."""
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=section.use_distributed_optimizer
    )
    module = Float16Module(config, model) if section.bf16 else model
    wrapped = DistributedDataParallel(config, ddp_config, module)
    config.finalize_model_grads_func = _sum_gradients
    return wrapped


def _sum_gradients(model: list[DistributedDataParallel], _num_tokens: torch.Tensor, **kwargs: object) -> None:
    """Megatron's finalisation without its division by a token count: the loss is normalised already."""
    finalize_model_grads(model, None, **kwargs)


def build_optimizer(model: DistributedDataParallel, section: MegatronSection) -> MegatronOptimizer:
    """AdamW, its state sharded over data-parallel ranks when the section says so."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=0.0,
        weight_decay=section.weight_decay,
        adam_beta1=section.adam_beta1,
        adam_beta2=section.adam_beta2,
        adam_eps=section.adam_eps,
        clip_grad=section.clip_grad,
        bf16=section.bf16,
        params_dtype=torch.bfloat16 if section.bf16 else torch.float32,
        use_distributed_optimizer=section.use_distributed_optimizer,
    )
    return get_megatron_optimizer(config, [model])


def step(optimizer: MegatronOptimizer, lr: float, section: MegatronSection) -> float:
    """One step; returns the gradient norm before clipping.

    Raises:
        PolicyError: the norm is not finite. The same on every rank, and before any weight has moved.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = section.weight_decay * group.get("wd_mult", 1.0)
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm):
        raise PolicyError(f"gradient norm is {grad_norm}: the step is not taken; look at the last batch's log-probs")
    optimizer.step()
    return grad_norm


def forget_moments(optimizer: MegatronOptimizer) -> None:
    """Zero Adam's moments and step count in place, as a fresh optimizer would have them."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
