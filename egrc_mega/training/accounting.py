"""Time and memory of a step's phases, and how much of the devices' arithmetic the training phase used.

    train_tflops = useful operations of the training phase / (time x ranks)      MFU = that / policy.peak_tflops

Useful operations: `policy.flops`; backward counts twice, scoring passes forward only, recomputation not at all.
Memory is the peak a phase allocated on a GPU; on a CPU, where nothing counts peaks, what is resident at its end.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import torch.distributed as dist

from egrc_mega.policy.flops import Work

BESIDE = "rollout_ahead"
"""The phase that went on while the step before trained."""


class Accounting:
    """Of one step."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.memory_gib: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase. The coordinator writes the parts of a rollout into `times` itself."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        yield
        self.times[name] = time.monotonic() - started
        self.memory_gib[name] = _memory_bytes() / 2**30

    def record(self, work: Work, peak_tflops: float | None) -> dict[str, Any]:
        """Fields of the step's record."""
        seconds = max(self.times.get("train", 0.0), 1e-9) * dist.get_world_size()
        tflops = work.flops / seconds / 1e12
        return {
            "train_tokens": work.num_tokens,
            "train_tokens_per_s": work.num_tokens / max(self.times.get("train", 0.0), 1e-9),
            "train_tflops": tflops,
            "mfu": tflops / peak_tflops if peak_tflops else None,
            **{f"time_{name}_s": seconds for name, seconds in self.times.items()},
            "time_step_s": sum(seconds for name, seconds in self.times.items() if name != BESIDE),
            **{f"memory_{name}_gib": memory for name, memory in self.memory_gib.items()},
        }


def _memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
