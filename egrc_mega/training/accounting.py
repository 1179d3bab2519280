"""Time and memory of a step's phases, and how much of the devices' arithmetic the training phase used.

    train_tflops = useful operations of the training phase / (time x ranks)      MFU = that / policy.peak_tflops

Times are sums over the spans of the step (`observe.spans`), each without the spans inside it. Useful operations:
`policy.flops`; backward counts twice, scoring passes forward only, recomputation not at all. Memory is the peak a phase
allocated on a GPU; on a CPU, where nothing counts peaks, what is resident at its end.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import torch.distributed as dist

from egrc_mega.observe.spans import Span, own_seconds, span
from egrc_mega.policy.flops import Work

PHASES = ("rollout", "grade", "credit", "train", "sync")
"""Spans of the main thread that make up a step. Sampling ahead goes on beside them, in a thread of its own."""
AHEAD = "ahead"
"""Name of that thread, and of its span, which says for which step it samples."""


class Accounting:
    """Of one step after the other."""

    def __init__(self) -> None:
        self.memory_gib: dict[str, float] = {}
        self._ahead: list[Span] = []
        """Spans of sampling ahead: they may end before the step that they are for has begun."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure time and memory of a phase."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with span(name):
            yield
        self.memory_gib[name] = _memory_bytes() / 2**30

    def record(self, step: int, spans: Sequence[Span], work: Work, peak_tflops: float | None) -> dict[str, Any]:
        """Fields of the step's record; the next step begins.

        Args:
            step: over the whole run, from 0.
            spans: all that have ended since the last record.
            work: what the policy computed in it, over all ranks.
        """
        main = own_seconds(spans, threading.main_thread().name)
        times = {name: main.get(name, 0.0) for name in PHASES}
        memory, self.memory_gib = self.memory_gib, {}
        seconds = max(times["train"], 1e-9)
        tflops = work.flops / (seconds * dist.get_world_size()) / 1e12
        return {
            "train_tokens": work.num_tokens,
            "train_tokens_per_s": work.num_tokens / seconds,
            "train_tflops": tflops,
            "mfu": tflops / peak_tflops if peak_tflops else None,
            **{f"time_{name}_s": seconds for name, seconds in times.items()},
            **self._ahead_of(step, spans),
            "time_step_s": sum(times.values()),
            **{f"memory_{name}_gib": gib for name, gib in memory.items()},
        }

    def _ahead_of(self, step: int, spans: Sequence[Span]) -> dict[str, float]:
        """How long the step's groups were sampled ahead; nothing where they were not."""
        known = [*self._ahead, *(span for span in spans if span.name == AHEAD)]
        self._ahead = [span for span in known if span.facts["step"] > step]
        own = [span.seconds for span in known if span.facts["step"] == step]
        return {"time_rollout_ahead_s": sum(own)} if own else {}


def _memory_bytes() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
