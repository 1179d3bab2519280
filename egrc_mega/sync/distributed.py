"""Weights by broadcast: one process group of the trainer's rank 0 and every rank of every server, NCCL or gloo."""

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch

from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.errors import ServerLost
from egrc_mega.rollout.keys import is_loopback
from egrc_mega.rollout.weights import all_of
from egrc_mega.sync import group
from egrc_mega.sync.spool import Bucket

_numbers = itertools.count()


class Broadcast:
    """A carrier. The group stays for the next version as long as the servers are the same and nothing fails.

    In asynchronous mode it sends beside the trainer's own collectives, from other threads. NCCL allows that: the group
    is a communicator of its own, for which one thread at a time calls; and no rank of a server is in a group of the
    trainer's, nor is any rank but this one in ours, so that a broadcast waits for servers only, never for a collective
    that waits for it. Its kernels have a stream of their own. Rank 0's GPU then holds a bucket while it trains.

    Args:
        flatten: send a bucket as one array of bytes, which costs a copy and saves a start per tensor: for NCCL.
    """

    def __init__(self, backend: str, *, flatten: bool) -> None:
        self.backend, self.flatten = backend, flatten
        self._clients: tuple[ServerClient, ...] = ()
        self._group: Any = None
        self._name = ""

    async def connect(self, clients: Sequence[ServerClient], timeout_s: float) -> bool:
        """Form the group, unless it is there; whether it is new.

        Raises:
            ServerLost, RequestRefused: a server does not join, or we cannot listen where it would find us.
        """
        if self._group is not None and self._clients == tuple(clients):
            return False
        await self._dissolve()
        sizes = await all_of(client.num_ranks() for client in clients)
        world_size = 1 + sum(sizes)
        offsets = itertools.accumulate(sizes, initial=1)
        name = f"egrc-{os.getpid()}-{next(_numbers)}"
        # one of them on another machine: then all of them find us there
        try:
            address = max((own_address(client.url) for client in clients), key=lambda found: not is_loopback(found))
            store = group.open_store(address)
        except (OSError, RuntimeError) as error:
            raise ServerLost(f"no weight-update group with {', '.join(c.url for c in clients)}: {error}") from error
        calls = [
            client.init_weights_update_group(
                address, store.port, offset, world_size, name, self.backend, group.JOIN_TIMEOUT_S
            )
            for client, offset in zip(clients, offsets, strict=False)
        ]
        # at the group's deadline NCCL's watchdog would end this process: a server's call must end before
        group_s = 2 * timeout_s if self.backend == "nccl" else timeout_s
        join = _in_thread(lambda: group.join(store, 0, world_size, name, self.backend, group_s))
        self._group = (await _while_sending(calls, join))[0]
        self._clients, self._name = tuple(clients), name
        return True

    async def _dissolve(self) -> None:
        """Leave the old group together with those of its servers that still answer; NCCL waits for all."""
        clients, name, is_member = self._clients, self._name, self._group is not None
        self.disconnect()
        if is_member:
            calls = [client.destroy_weights_update_group(name) for client in clients]
            await asyncio.gather(*calls, return_exceptions=True)

    async def send(self, bucket: Bucket, label: dict[str, Any], timeout_s: float) -> None:
        """Broadcast a bucket's tensors while every server receives and loads them."""
        names, tensors = zip(*bucket.tensors, strict=True)
        body = label | {
            "names": names,
            "dtypes": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors],
            "shapes": [list(tensor.shape) for tensor in tensors],
            "group_name": self._name,
            "load_format": "flattened_bucket" if self.flatten else None,
        }
        members = self._group

        def broadcast() -> None:
            parcels = [_flat(tensors)] if self.flatten else tensors
            if self.backend == "nccl":
                group.broadcast_from_gpu(members, parcels)
                return
            for parcel in parcels:
                group.broadcast(members, parcel)

        calls = [client.update_weights_from_distributed(body, timeout_s) for client in self._clients]
        try:
            await _while_sending(calls, _in_thread(broadcast))
        finally:
            members = None  # see `_without_frames`

    def disconnect(self) -> None:
        """Form a new group next time. A broadcast that somebody keeps waiting ends at its own deadline."""
        if self._group is not None:
            threading.Thread(target=group.leave, args=[self._group], daemon=True).start()
        self._group, self._clients, self._name = None, (), ""


def own_address(url: str) -> str:
    """Where the server at `url` finds this machine."""
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        return "127.0.0.1"
    family, kind, _protocol, _name, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing; it only chooses a route
        return str(probe.getsockname()[0])


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])


async def _while_sending(calls: Sequence[Any], sending: "asyncio.Future[Any]") -> list[Any]:
    """Results of `sending` and the calls; the first failure ends the wait for the others.

    Raises:
        ServerLost, RequestRefused: of a call, or a ServerLost for a broken broadcast.
    """
    tasks = [sending, *(asyncio.ensure_future(call) for call in calls)]
    try:
        return list(await asyncio.gather(*tasks))
    except (RuntimeError, TimeoutError) as error:
        raise ServerLost(f"a weight-update group broke: {error}") from error
    finally:
        for task in tasks:
            task.cancel()


def _without_frames(error: Exception) -> Exception:
    """Frames in a traceback hold a group; gloo's peers learn that we have left it when nobody holds it any longer."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__, link = None, link.__cause__ or link.__context__
    return error


def _in_thread(function: Callable[[], Any]) -> "asyncio.Future[Any]":
    """Like asyncio.to_thread, in a thread that never holds up the end of the process: gloo cannot be interrupted."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as raised:
            error = _without_frames(raised)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="weights", daemon=True).start()
    return future
