"""Megatron-core's DDP wrapper and optimizer, and one guarded optimizer step."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.errors import PolicyError
from egrc_mega.policy.distributed import device
from egrc_mega.policy.gradients import clip, install_multi_tensor_operations
from egrc_mega.policy.overlap import choose_overlap
from egrc_mega.sections.policy import MegatronSection

MOMENT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def wrap_model(
    model: Sequence[GPTModel], config: TransformerConfig, section: MegatronSection
) -> list[DistributedDataParallel]:
    """Megatron's DDP: one gradient buffer in fp32; sums over data-parallel ranks (see `calculate_per_token_loss`)."""
    overlap = choose_overlap(config, section)
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=section.use_distributed_optimizer,
        overlap_grad_reduce=overlap.grad_reduce,
        overlap_param_gather=overlap.param_gather,
    )
    config.finalize_model_grads_func = _sum_gradients
    modules = [Float16Module(config, piece) if section.bf16 else piece for piece in model]
    # as megatron's training does: buckets of later pieces would wait for each other in the interleaved schedule
    wrapped = [DistributedDataParallel(config, ddp_config, m, disable_bucketing=i > 0) for i, m in enumerate(modules)]
    if overlap.grad_reduce:
        no_syncs = [module.no_sync for module in wrapped]
        config.no_sync_func = no_syncs if len(no_syncs) > 1 else no_syncs[0]
    return wrapped


def _sum_gradients(model: list[DistributedDataParallel], _num_tokens: torch.Tensor, **kwargs: object) -> None:
    """Megatron's finalisation without its division by a token count: the loss is normalised already."""
    finalize_model_grads(model, None, **kwargs)


def build_optimizer(model: list[DistributedDataParallel], section: MegatronSection) -> MegatronOptimizer:
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
        use_precision_aware_optimizer=section.use_precision_aware_optimizer,
        exp_avg_dtype=MOMENT_DTYPES[section.exp_avg_dtype],
        exp_avg_sq_dtype=MOMENT_DTYPES[section.exp_avg_sq_dtype],
    )
    optimizer = get_megatron_optimizer(config, model)
    install_multi_tensor_operations()
    for inner in optimizer.chained_optimizers:
        _count_padding(inner)
    for inner in _torch_optimizers(optimizer):
        _keep_step_on_load(inner)
        _allocate_moments(inner.optimizer)
        _choose_kernel(inner.optimizer)
    return optimizer


def _torch_optimizers(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """Those around torch's AdamW; Transformer Engine's and apex's need none of what is done for it here."""
    return [inner for inner in optimizer.chained_optimizers if isinstance(inner.optimizer, torch.optim.AdamW)]


def _allocate_moments(adam: torch.optim.AdamW) -> None:
    """Give AdamW its state before the first step: megatron's checkpoints read the step count from it."""
    for parameter in (p for group in adam.param_groups for p in group["params"]):
        adam.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def takes_fused_adam() -> bool:
    """Whether torch's AdamW is its fused one: on a CPU it rounds otherwise than the plain one."""
    return torch.cuda.is_available()


def _choose_kernel(adam: torch.optim.AdamW) -> None:
    """On a GPU all weights in a few launches, with the step counts beside them, so that nobody waits for the host."""
    is_fused = takes_fused_adam()
    for group in adam.param_groups:
        # checkpoints bring the choice of the machine that wrote them
        group["fused"], group["foreach"] = is_fused, None
    for state in adam.state.values():
        # megatron hands one loaded tensor to every parameter: each step would count once per parameter
        state["step"] = state["step"].to(device() if is_fused else "cpu", copy=True)


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Norm of the gradients that backward has left, before clipping. Collective; waits for the device."""
    optimizer.prepare_grads()
    return float(optimizer.get_grad_norm())


def step(optimizer: MegatronOptimizer, grad_norm: float, lr: float, section: MegatronSection) -> None:
    """One step with the gradients whose norm this is.

    Raises:
        PolicyError: the norm is not finite. The same on every rank, and before any weight has moved.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = section.weight_decay * group.get("wd_mult", 1.0)
    if not math.isfinite(grad_norm):
        raise PolicyError(f"gradient norm is {grad_norm}: the step is not taken; look at the last batch's log-probs")
    clip(optimizer, grad_norm, section.clip_grad)
    optimizer.step_with_ready_grads()


def _keep_step_on_load(inner: MegatronOptimizer) -> None:
    """Megatron-core 0.16 skips torch's `step` when it reads a checkpoint's moments, then misses it copying them."""
    if not isinstance(inner, DistributedOptimizer):
        return
    copy_states = inner._set_main_param_and_optimizer_states

    def copy_states_and_step(parameter: torch.nn.Parameter, tensors: dict[str, torch.Tensor]) -> None:
        copy_states(parameter, inner._get_main_param_and_optimizer_states(parameter) | tensors)

    inner._set_main_param_and_optimizer_states = copy_states_and_step


def _count_padding(inner: MegatronOptimizer) -> None:
    """Have checkpoints look for a weight's state where it is.

    Megatron-core 0.16 gathers a buffer without the padding at the end of each bucket, and then takes every weight from
    its place with padding: beyond the first padded bucket all are shifted (NVIDIA/Megatron-LM pull request 5077).
    """
    if not isinstance(inner, DistributedOptimizer):
        return
    for buffer in inner.buffers:
        buffer.numel_unpadded = buffer.numel
        for bucket in buffer.buckets:
            bucket.numel_unpadded = bucket.grad_data.numel()


def sharded_state(optimizer: MegatronOptimizer, model: dict[str, Any], *, is_loading: bool) -> dict[str, Any]:
    """Megatron's sharded state dict of the optimizer, `model` being that of the weights."""
    state: dict[str, Any] = optimizer.sharded_state_dict(
        model, is_loading=is_loading, metadata={"distrib_optim_sharding_type": "fully_reshardable"}
    )
    _put_steps_on_host(state)
    return state


def _put_steps_on_host(state: dict[str, Any]) -> None:
    """Another process may write the checkpoint, and cannot read the device."""
    for name, value in state.items():
        if isinstance(value, dict):
            _put_steps_on_host(value)
        elif name == "common_step" and isinstance(value, torch.Tensor):
            state[name] = value.cpu()


def load_state(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer.sharded_state_dict` described."""
    optimizer.load_state_dict(state)
    for inner in _torch_optimizers(optimizer):
        _choose_kernel(inner.optimizer)


def forget_moments(optimizer: MegatronOptimizer) -> None:
    """Zero Adam's moments and step count in place, as a fresh optimizer would have them."""
    for inner in optimizer.chained_optimizers:
        for group in inner.optimizer.param_groups:
            if "step" in group:  # the fused optimizers count per group
                group["step"] = 0
        for state in inner.optimizer.state.values():
            for name in state.keys() & {"step", "exp_avg", "exp_avg_sq"}:
                state[name].zero_()
