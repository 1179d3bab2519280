"""Compiles and launches one kernel before anything is computed: what keeps kernels from running is known at once."""

import torch

from egrc_kernels.registry import failures, uses_triton
from egrc_kernels.rmsnorm import rmsnorm


def try_kernels(device: torch.device) -> None:
    """Where kernels are to run on a device, run one; if it fails, that is an obstacle from then on.

    Finds a compiler that is missing, and a driver that does not take what it makes. Call it outside of compiled code.

    Raises:
        RuntimeError: `EGRC_KERNELS=triton` and they cannot run, for a reason that needs no trial.
    """
    if not uses_triton(torch.empty(0, device=device)):
        return
    try:
        # torch knows of what has gone wrong on a device when it waits for it, here for a number
        float(rmsnorm(torch.ones(1, 2, device=device), torch.ones(2, device=device)).sum())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        failures[device] = f"a kernel cannot be compiled or launched on {device} ({type(error).__name__}: {lines[0]})"
