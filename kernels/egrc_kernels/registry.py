"""Which implementation an op takes: its Triton kernels on a GPU, its PyTorch reference elsewhere.

`EGRC_KERNELS=reference` or `triton` decides for all ops; `auto`, the default, falls back with one warning on a GPU and
silently on a CPU, where the reference is the path. With `TRITON_INTERPRET=1` kernels run on CPU tensors, slowly.
"""

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Launch = TypeVar("Launch", bound=Callable[..., Any])

VARIABLE = "EGRC_KERNELS"
CHOICES = ("auto", "reference", "triton")
MIN_CAPABILITY = (8, 0)
failures: dict[torch.device, str] = {}
"""Why kernels do not run on a device, although they should: see `trial`."""


def choice() -> str:
    """What the environment asks for.

    Raises:
        ValueError: it asks for something unknown.
    """
    value = os.environ.get(VARIABLE, "auto")
    if value not in CHOICES:
        raise ValueError(f"{VARIABLE}={value}: must be one of {', '.join(CHOICES)}")
    return value


def uses_triton(tensor: torch.Tensor) -> bool:
    """Whether the op's kernels run on this tensor, rather than its reference.

    Raises:
        RuntimeError: `EGRC_KERNELS=triton` and they cannot.
    """
    wanted = choice()
    if wanted == "reference":
        return False
    reason = _obstacle(tensor)
    if reason is None:
        return True
    if wanted == "triton":
        raise RuntimeError(f"{VARIABLE}=triton, but {reason}; set it to auto or reference")
    if tensor.is_cuda:
        _warn_once(reason)
    return False


def is_interpreting() -> bool:
    """Kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def speaks_ptx() -> bool:
    """Kernels may have instructions of NVIDIA's in them: not on AMD, nor in Triton's interpreter."""
    return torch.version.hip is None and not is_interpreting()


def launches_on_its_device(launch: Launch) -> Launch:
    """Makes the device of the first argument the current one for the call: Triton launches on the current one."""

    @functools.wraps(launch)
    def on_its_device(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if not first.is_cuda:
            return launch(first, *rest, **options)
        with torch.cuda.device(first.device):
            return launch(first, *rest, **options)

    return on_its_device  # type: ignore[return-value]


def _obstacle(tensor: torch.Tensor) -> str | None:
    if tensor.device in failures:
        return failures[tensor.device]
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if is_interpreting():
        # the interpreter computes with the bits of bfloat16 (triton issue 11584)
        return "Triton's interpreter has no bfloat16" if tensor.dtype == torch.bfloat16 else None
    if not tensor.is_cuda:
        return f"the tensors are on {tensor.device.type}"
    if torch.version.hip is None and torch.cuda.get_device_capability(tensor.device) < MIN_CAPABILITY:
        return "the GPU is older than compute capability 8.0"
    return None


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"egrc_kernels takes its PyTorch references: {reason}", stacklevel=4)
