"""A copy of a rank's tensors in host memory that is kept from save to save.

The copy is all of an asynchronous save that a step waits for. Memory that a process gets anew is mapped page by page
when it is first written, which takes many times as long as the copying; so the first save alone pays it.
"""

import mmap

import numpy as np
import torch

ALIGNMENT = 64
"""Of every tensor, as torch's own memory has it."""


class HostCopy:
    """Room for one copy of a state: whoever copies the next one must be through with the last."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def copies(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copies of tensors of any device, shape and dtype; they are this object's memory, and the next call's."""
        ends = np.cumsum([0, *(-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors)])
        if ends[-1] > len(self._memory):
            self._memory = _fresh_memory(int(ends[-1]))
        return [self._copy(tensor.detach(), int(begin)) for tensor, begin in zip(tensors, ends, strict=False)]

    def _copy(self, tensor: torch.Tensor, begin: int) -> torch.Tensor:
        if not tensor.numel() or not tensor.is_contiguous():  # the archive tells strides
            return tensor.to("cpu", copy=True)
        # of its own memory and no more: it is written as it is
        flat = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=begin)
        copied = flat.reshape(tensor.shape)
        if tensor.device.type == "cpu":
            np.copyto(_bytes(flat), _bytes(tensor.reshape(-1)))  # the C library's, past the processor's caches
        else:
            copied.copy_(tensor)
        return copied


def _fresh_memory(num_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _bytes(flat: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return flat.view(torch.uint8).numpy()
