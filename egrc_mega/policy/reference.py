"""A reference without a second model: weights in host memory that take the policy's place in turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Reference:
    """The weights of a model at the moment of construction."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.weights = {name: _host_copy(parameter) for name, parameter in model.named_parameters()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model computes with the reference's weights inside, and has its own again afterwards, bit by bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """One parameter at a time: the extra memory is that of the largest."""
        for name, parameter in self.model.named_parameters():
            own = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(own)


def _host_copy(parameter: torch.Tensor) -> torch.Tensor:
    copy = parameter.detach().to("cpu", copy=True)
    return copy.pin_memory() if parameter.is_cuda else copy
