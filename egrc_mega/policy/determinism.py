"""The `policy.deterministic` switch: the same numbers again from the same inputs, on GPUs too."""

import os

import torch

VARIABLES = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS: one workspace, one order of sums
    "NCCL_ALGO": "Ring",  # all-reduce: one order of ranks, whatever the size
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",  # Transformer Engine's attention backward
}
"""What libraries read when they start, and so must stand before the first CUDA call."""


def make_deterministic() -> None:
    """For the rest of the process. An operation that has no deterministic form raises."""
    os.environ.update(VARIABLES)
    torch.use_deterministic_algorithms(True)
    # uninitialised memory would be filled with NaN at every allocation: nothing here reads it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
