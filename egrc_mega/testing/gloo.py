"""Runs a function on several gloo ranks in processes of their own."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

PRELOADED = ["egrc_mega.training.run"]
"""Imported once, by the process that ranks are forked from: megatron's import takes a rank five seconds."""
HANG_LIMIT_S = 1500
"""Of ranks and of their waits for each other: no verdict on how long a busy machine takes."""
FAILED_S = 60.0
"""For the ranks after one that has failed."""


def run_on_gloo(worker: Callable[..., None], world_size: int, *args: Any, timeout_s: float = HANG_LIMIT_S) -> None:
    """Call `worker(*args)` on every rank, with torchrun's environment set.

    The worker must be importable by name (not defined in a test module). Raises AssertionError when a rank fails or
    misses the deadline; its traceback is on stderr.
    """
    for rank, code in enumerate(exit_codes(worker, world_size, *args, timeout_s=timeout_s)):
        assert code == 0, f"rank {rank} of {worker.__name__} ended with {code}"


def exit_codes(
    worker: Callable[..., None], world_size: int, *args: Any, timeout_s: float = HANG_LIMIT_S
) -> list[int | None]:
    """`run_on_gloo` for ranks that may fail; None of one that has missed the deadline, and is killed."""
    processes = start_on_gloo(worker, world_size, *args)
    try:
        for process in processes:
            has_failed = any(each.exitcode for each in processes)
            process.join(min(timeout_s, FAILED_S) if has_failed else timeout_s)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def start_on_gloo(worker: Callable[..., None], world_size: int, *args: Any) -> list[BaseProcess]:
    """The processes of `run_on_gloo`, begun; whoever begins them sees that they end."""
    # CUDA does not survive a fork
    has_gpu = torch.cuda.is_available()
    context = multiprocessing.get_context("spawn") if has_gpu else multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        context.Process(target=_rank_main, args=(rank, environment, worker, args)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return list(processes)


def _rank_main(rank: int, environment: dict[str, str], worker: Callable[..., None], args: tuple[Any, ...]) -> None:
    # a forked process has the variables of the one it comes from
    os.environ.clear()
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    worker(*args)
