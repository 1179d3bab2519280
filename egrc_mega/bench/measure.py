"""Times, memory and ceilings, all of the same run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True, slots=True)
class Measured:
    """What one call of a contender took."""

    seconds: float
    """Median of the rounds."""
    peak_bytes: int | None
    """Allocated beyond what was there before, on a GPU."""


def measure(call: Callable[[], object], rounds: int) -> Measured:
    """Run a few times unmeasured, then `rounds` times."""
    for _ in range(3):
        call()
    if not torch.cuda.is_available():
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return Measured(median(times), None)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    seconds = median(start.elapsed_time(end) for start, end in events) / 1000
    return Measured(seconds, torch.cuda.max_memory_allocated() - before)


def measure_graphed(call: Callable[[], object], copies: int, rounds: int = 5) -> float:
    """Seconds of one call on the device: `copies` of them in one CUDA graph, without the host's time to launch them."""
    if not torch.cuda.is_available():
        return measure(call, rounds).seconds
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            call()
    return measure(graph.replay, rounds).seconds / copies


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """What this device does at best: TFLOP/s of a square product, GB/s of a copy (bytes read and written together)."""
    has_gpu = torch.cuda.is_available()
    device, side, size = ("cuda", 8192, 2**30) if has_gpu else ("cpu", 512, 2**24)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "matmul_tflops": 2 * side**3 / measure(lambda: a @ b, 10).seconds / 1e12,
        "copy_gb_per_s": 2 * size / measure(lambda: target.copy_(source), 10).seconds / 1e9,
    }
