"""Optimizer state that waits in host memory: on the device only while a step is taken, when activations are gone.

megatron-core's own offload (optimizer/cpu_offloading) computes the step on the host and needs CUDA streams throughout;
this one moves the state and leaves the step as it is, so a run with it is bitwise the run without.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core.optimizer import MegatronOptimizer

from egrc_mega.policy.distributed import device


class OptimizerOnHost:
    """Adam's moments and the float32 masters of bf16 weights. Weights themselves stay where they are."""

    def __init__(self, optimizer: MegatronOptimizer) -> None:
        self.optimizer = optimizer
        self.buffers: dict[str, torch.Tensor] = {}
        self.to_host()

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """The state is where the optimizer can use it inside, and on the host again afterwards."""
        for _name, tensor in self._tensors():
            tensor.data = tensor.data.to(device(), copy=True)
        try:
            yield
        finally:
            # gradients of masters live beside them, and are of no use after the step
            self.optimizer.zero_grad()
            self.to_host()

    @torch.no_grad()
    def to_host(self) -> None:
        """Also after a load, which may have put the state anywhere. The host's memory is taken once."""
        for name, tensor in self._tensors():
            buffer = self.buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                pinned = torch.cuda.is_available()
                buffer = self.buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
            buffer.copy_(tensor)
            tensor.data = buffer

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, inner in enumerate(self.optimizer.chained_optimizers):
            for place, master in enumerate(_masters(inner)):
                yield f"{number}.master.{place}", master
            for place, moments in enumerate(inner.optimizer.state.values()):
                for name, value in moments.items():
                    if isinstance(value, torch.Tensor) and value.dim():
                        yield f"{number}.{name}.{place}", value


def _masters(inner: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """Copies in float32 of bf16 weights: whole ones, or this rank's shards with the distributed optimizer."""
    for name in ("fp32_from_float16_groups", "shard_fp32_from_float16_groups"):
        for group in getattr(inner, name, []):
            yield from (master for master in group if master is not None)
