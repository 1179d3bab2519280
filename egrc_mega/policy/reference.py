"""A reference without a second model: weights in host memory that take the policy's place in turn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class Reference:
    """The weights of a model at the moment of construction."""

    def __init__(self, model: Sequence[torch.nn.Module]) -> None:
        self.live = [parameter for piece in model for parameter in piece.parameters()]
        self.kept = [_host_copy(parameter) for parameter in self.live]

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
        for parameter, kept in zip(self.live, self.kept, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(own)


def _host_copy(parameter: torch.Tensor) -> torch.Tensor:
    copy = parameter.detach().to("cpu", copy=True)
    return copy.pin_memory() if parameter.is_cuda else copy
