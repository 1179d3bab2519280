"""Weights by handle, for servers that share our GPUs (CUDA IPC); on a CPU the same code sends them by value.

SGLang takes a pickle here, which it reads with an allow-list: the one pickle that leaves this process, and only to
servers on this machine.
"""

import base64
import io
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.multiprocessing  # teaches ForkingPickler to send CUDA tensors by handle

from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.weights import all_of
from egrc_mega.sync.spool import Bucket, NamedTensors


class Handles:
    """A carrier for servers of this machine."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._clients: tuple[ServerClient, ...] = ()
        self._num_ranks: list[int] = []

    async def connect(self, clients: Sequence[ServerClient], timeout_s: float) -> bool:
        """Ask each server for its number of ranks: every rank gets its own copy of the payload."""
        self._num_ranks = await all_of(client.num_ranks() for client in clients)
        self._clients = tuple(clients)
        return True

    async def send(self, bucket: Bucket, label: dict[str, Any], timeout_s: float) -> None:
        """Hand a bucket over; its GPU memory is free again when all servers have answered."""
        staged = on_gpu(bucket.tensors) if self.device == "cuda" else bucket.tensors
        calls = []
        for client, num_ranks in zip(self._clients, self._num_ranks, strict=True):
            # a handle each: whoever opens one gives it back, and the memory would be free after the first
            texts = [payload(staged) for _ in range(num_ranks)]
            calls.append(client.update_weights_from_tensor(label | {"serialized_named_tensors": texts}, timeout_s))
        await all_of(calls)

    def disconnect(self) -> None:
        """Nothing is held open."""


def on_gpu(tensors: NamedTensors) -> NamedTensors:
    """Views of one GPU array, so that a bucket is one handle; its parts are aligned for every dtype."""
    sizes = [-(-tensor.nbytes // 16) * 16 for _name, tensor in tensors]
    whole = torch.empty(sum(sizes), dtype=torch.uint8, device="cuda")
    staged: NamedTensors = []
    for (name, tensor), part in zip(tensors, whole.split(sizes), strict=True):
        view = part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        staged.append((name, view.copy_(tensor, non_blocking=True)))
    torch.cuda.synchronize()
    return staged


def payload(tensors: NamedTensors) -> str:
    """The pickle that SGLang reads: CUDA tensors by handle, host tensors by value."""
    buffer = io.BytesIO()
    if tensors[0][1].is_cuda:
        ForkingPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(tensors)
    else:
        pickle.dump(tensors, buffer, pickle.HIGHEST_PROTOCOL)
    return base64.b64encode(buffer.getvalue()).decode()
