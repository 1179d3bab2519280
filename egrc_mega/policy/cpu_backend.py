"""Lets megatron-core 0.16 run on a machine without CUDA: the places where it says "cuda" are pointed at the CPU.

Used only where CUDA is absent. Inside the megatron modules of `MODULES` the name `torch` becomes a stand-in that
differs in a handful of factories; torch itself stays as it is, but for `Tensor.type()` and `Tensor.cuda()`, which
megatron calls on tensors.
`tests/policy/test_cpu_backend.py` fails when a megatron upgrade makes an entry unnecessary or insufficient.
"""

import functools
import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

CPU = torch.device("cpu")

MODULES = {
    "megatron.core.dist_checkpointing.strategies.filesystem_async": "synchronize() before tensors are written",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver": "a flag on torch.cuda.current_device()",
    "megatron.core.distributed.param_and_grad_buffer": "gradient buffers on torch.cuda.current_device()",
    "megatron.core.models.common.embeddings.rotary_pos_embedding": "frequencies on torch.cuda.current_device()",
    "megatron.core.optimizer.clip_grads": 'norms in torch.tensor(..., device="cuda")',
    "megatron.core.optimizer.distrib_optimizer": "checkpoint buffers on torch.cuda.current_device()",
    "megatron.core.optimizer.optimizer": 'overflow flags in torch.tensor(..., device="cuda")',
    "megatron.core.pipeline_parallel.p2p_communication": "receive buffers on current_device(); synchronize()",
    "megatron.core.pipeline_parallel.schedules": 'token counts in torch.zeros(..., device="cuda")',
    "megatron.core.tensor_parallel.layers": "all-gather buffers on torch.cuda.current_device()",
    "megatron.core.tensor_parallel.mappings": "all-gather buffers on torch.cuda.current_device()",
    "megatron.core.tensor_parallel.random": "the random state that activation recomputation keeps",
    "megatron.core.transformer.moe.router": "the router's weight moves to torch.cuda.current_device()",
    "megatron.core.utils": "the stand-in of the fused norm answers on cuda",
}
"""Megatron file -> what in it says "cuda"."""


class _CudaOnCpu:
    """Stands for `torch.cuda` where there is none."""

    current_device = staticmethod(lambda: CPU)
    synchronize = staticmethod(lambda device=None: None)
    random = SimpleNamespace(get_rng_state=lambda device=None: torch.get_rng_state())

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)


class _TorchOnCpu:
    """Stands for `torch` inside megatron."""

    cuda = _CudaOnCpu()

    def __init__(self) -> None:
        for name in ("tensor", "zeros", "empty"):
            setattr(self, name, _on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = CPU
        return factory(*args, **kwargs)

    return create


def _with_cuda_names(tensor_type: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's clip_grads, optimizer and distrib_optimizer.py compare `type()` with "torch.cuda.FloatTensor"."""

    @functools.wraps(tensor_type)
    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = tensor_type(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.") if isinstance(result, str) else result

    return type_name


def _splits_as_lists(self: Any, _point: str, tokens_per_expert: torch.Tensor | None = None) -> torch.Tensor | None:
    """Megatron's moe/token_dispatcher.py copies sizes to the host on a CUDA stream; here they are on the host."""
    for name in ("input_splits", "output_splits"):
        if isinstance(getattr(self, name), torch.Tensor):
            setattr(self, name, getattr(self, name).tolist())
    return tokens_per_expert


def install() -> None:
    """Point megatron at the CPU, once. Refuses where CUDA exists: there megatron needs none of it."""
    assert not torch.cuda.is_available(), "the CPU backend is for machines without CUDA"
    if hasattr(torch.Tensor.type, "__wrapped__"):
        return
    stand_in = _TorchOnCpu()
    for name in MODULES:
        importlib.import_module(name).torch = stand_in  # type: ignore[attr-defined]
    dispatcher = importlib.import_module("megatron.core.transformer.moe.token_dispatcher").MoEAlltoAllTokenDispatcher
    dispatcher.cuda_dtoh_stream = "none on a CPU"
    dispatcher._maybe_dtoh_and_synchronize = _splits_as_lists
    # models/common/language_module/language_module.py: tied embeddings of two pipeline stages
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    torch.Tensor.type = _with_cuda_names(torch.Tensor.type)  # type: ignore[method-assign]
