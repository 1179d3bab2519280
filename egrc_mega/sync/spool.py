"""The served weights in host memory: filled while the first servers already read, kept for those that come back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import torch

from egrc_mega.errors import RolloutError

NamedTensors = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors that travel together, on the host, by their Hugging Face names."""

    tensors: NamedTensors
    is_last: bool


class Spool:
    """One version at a time; the memory of the last one is used again.

    Costs the model's size on rank 0's host; beside a GPU up to twice that, for torch rounds pinned memory up to powers
    of two.
    """

    def __init__(self, bucket_bytes: int) -> None:
        self.bucket_bytes = bucket_bytes
        self._tensors: dict[str, torch.Tensor] = {}
        self._buckets: list[Bucket] = []
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def clear(self) -> None:
        """Forget the version. Nobody may be reading: the fleet sees to that."""
        self._buckets, self._error = [], None

    def fill(self, tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> None:
        """Take a version, in order; every full bucket can be read at once.

        Raises:
            Exception: what `tensors` raises; readers end with a `RolloutError` then.
        """
        try:
            taken: NamedTensors = []
            size = 0
            for name, tensor in tensors:
                num_bytes = tensor.numel() * dtype.itemsize
                if taken and size + num_bytes > self.bucket_bytes:
                    self._add(Bucket(taken, is_last=False))
                    taken, size = [], 0
                taken.append((name, self._kept(name, tensor, dtype)))
                size += num_bytes
            self._add(Bucket(taken, is_last=True))
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
            raise

    def _kept(self, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        kept = self._tensors.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != dtype:
            kept = torch.empty(tensor.shape, dtype=dtype, pin_memory=torch.cuda.is_available())
            self._tensors[name] = kept
        return kept.copy_(tensor.detach())

    def _add(self, bucket: Bucket) -> None:
        with self._changed:
            self._buckets.append(bucket)
            self._changed.notify_all()

    async def buckets(self) -> AsyncIterator[Bucket]:
        """All buckets of the version, as they become ready.

        Raises:
            RolloutError: the version was never finished.
        """
        index, is_last = 0, False
        while not is_last:
            if index >= len(self._buckets) and self._error is None:
                await asyncio.to_thread(self._wait_for, index)
            if self._error is not None:
                raise RolloutError(f"the weights were not gathered whole: {self._error}")
            bucket = self._buckets[index]
            index, is_last = index + 1, bucket.is_last
            yield bucket

    def _wait_for(self, index: int) -> None:
        # the filling thread always ends in a last bucket or an error
        with self._changed:
            self._changed.wait_for(lambda: index < len(self._buckets) or self._error is not None)
