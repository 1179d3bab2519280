"""Copies of a micro-batch to a GPU on a stream of their own, so that they run while the one before is computed."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


class CopyStream:
    """Where a device's micro-batches are copied to it; on a CPU there is nothing to copy."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def made(self, make: Callable[[], Made]) -> Made:
        """What `make` returns. The work that is launched from here on waits for its tensors; the host does not.

        Args:
            make: copies tensors to the device, without waiting, and returns them in tuples, lists or dataclasses.
        """
        if self.stream is None:
            return make()
        with torch.cuda.stream(self.stream):
            value = make()
        user = torch.cuda.current_stream(self.device)
        user.wait_stream(self.stream)  # an event on the device
        for tensor in tensors_of(value):
            # its memory belongs to the copies' stream, which may not take it back while work that reads it is queued
            tensor.record_stream(user)
        return value


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors on a GPU in nested tuples, lists and dataclasses."""
    if isinstance(value, torch.Tensor):
        if value.is_cuda:
            yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))
