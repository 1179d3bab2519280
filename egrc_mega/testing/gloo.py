"""Runs a function on several gloo ranks in processes of their own."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any


def run_on_gloo(worker: Callable[..., None], world_size: int, *args: Any, timeout_s: float = 120.0) -> None:
    """Call `worker(*args)` on every rank, with torchrun's environment set.

    The worker must be importable by name (not defined in a test module). Raises AssertionError when a rank fails or
    misses the deadline; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(target=_rank_main, args=(rank, world_size, port, worker, args)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        for rank, process in enumerate(processes):
            process.join(timeout_s)
            assert process.exitcode == 0, f"rank {rank} of {worker.__name__} ended with {process.exitcode}"
    finally:
        for process in processes:
            process.kill()


def _rank_main(rank: int, world_size: int, port: int, worker: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    worker(*args)
