"""A process group between the trainer's rank 0 and the ranks of servers, beside whatever groups either side has.

Made the way SGLang's `init_custom_process_group` makes its end (sglang 0.5.23, srt/utils/common.py): a store, a prefix
with the group's name, and torch's own helper, for no public call makes a group whose members share no default group.
"""

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import (
    Backend,
    GroupName,
    PrefixStore,
    _abort_process_group,
    _new_process_group_helper,
    _set_pg_timeout,
    _world,
)

JOIN_TIMEOUT_S = 60.0
"""For all members to appear."""
TIMED_OUT = re.compile(r"\btime(d )?out\b(?![(=])", re.IGNORECASE)
"""How gloo, the store and NCCL's watchdog tell of a limit of time, in an error of the same type as any other's (torch
2.13, gloo/transport/tcp, TCPStore.cpp, ProcessGroupNCCL.cpp); `Timeout(ms)=` stands in every error of NCCL."""


@contextmanager
def _limits_of_time() -> Iterator[None]:
    """Within it an error of torch that a limit of time is behind is a TimeoutError, as everybody else's is."""
    try:
        yield
    except RuntimeError as error:
        if TIMED_OUT.search(str(error)):
            raise TimeoutError(str(error)) from error
        raise


def open_store(address: str) -> dist.TCPStore:
    """Rank 0's store, on a port that the system chooses (`store.port`), open to those who reach `address` only."""
    listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    # left to itself the store listens on every address of the machine
    return dist.TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN_TIMEOUT_S),
        master_listen_fd=listener.detach(),
    )


@_limits_of_time()
def find_store(address: str, port: int) -> dist.TCPStore:
    """Another rank's view of that store.

    Raises:
        RuntimeError, TimeoutError: it is not there.
    """
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=JOIN_TIMEOUT_S))


@_limits_of_time()
def join(
    store: dist.TCPStore, rank: int, world_size: int, name: str, backend: str, timeout_s: float
) -> dist.ProcessGroup:
    """Blocks until all ranks have joined (gloo); NCCL's ranks meet in the first broadcast.

    Args:
        timeout_s: for each broadcast from then on.

    Raises:
        TimeoutError: somebody does not come within `JOIN_TIMEOUT_S`.
        RuntimeError: somebody is gone.
    """
    group, _store = _new_process_group_helper(
        world_size,
        rank,
        [],
        Backend(backend),
        PrefixStore(name, store),
        group_name=GroupName(name),
        backend_options=None,
        timeout=timedelta(seconds=JOIN_TIMEOUT_S),
    )
    _set_pg_timeout(timedelta(seconds=timeout_s), group)
    _world.pg_group_ranks[group] = {i: i for i in range(world_size)}
    return group


@_limits_of_time()
def broadcast(group: dist.ProcessGroup, tensor: torch.Tensor) -> None:
    """From rank 0 into every other rank's `tensor`.

    Raises:
        TimeoutError: a member missed the group's deadline.
        RuntimeError: a member is gone.
    """
    options = dist.BroadcastOptions()
    options.rootRank = 0
    group.broadcast([tensor], options).wait()


@_limits_of_time()
def broadcast_from_gpu(group: dist.ProcessGroup, tensors: Sequence[torch.Tensor]) -> None:
    """`broadcast` of host tensors by way of our GPU.

    Raises:
        TimeoutError, RuntimeError: as `broadcast`.
    """
    # a stream of its own: a broadcast that nobody joins must hold up no other work of this device
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for tensor in tensors:
            broadcast(group, tensor.cuda(non_blocking=True))
    stream.synchronize()


def leave(group: dist.ProcessGroup) -> None:
    """End our membership, also of a broadcast that nobody joins."""
    if dist.get_backend(group) == "nccl":
        _abort_process_group(group)  # destroying it would wait for its kernels
    else:
        dist.destroy_process_group(group)
