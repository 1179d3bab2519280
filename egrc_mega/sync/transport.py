"""The transport that a configuration names."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import torch

from egrc_mega.config.config import Config
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.errors import RequestRefused
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.sglang import find_python
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.checksums import Checksums
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.nccl import check_same_nccl
from egrc_mega.sync.spool import Spool


class Transport(Protocol):
    """Brings versions to the servers."""

    def publish(self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str) -> None:
        """Move every server to `version`; returns when all of them have confirmed it."""

    def stage(
        self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str
    ) -> Callable[[], None]:
        """The part of `publish` that needs the tensors as they are; what is returned does the rest, in any thread."""


def check_transport(config: Config) -> None:
    """Ask, before any server is started, whether the transport can reach those that the run would start.

    Raises:
        ConfigError: see `check_same_nccl`.
    """
    rollout = config.rollout
    if config.sync.transport == "distributed" and rollout.server == "sglang" and rollout.device == "cuda":
        check_same_nccl(find_python(rollout))


def build_transport(config: Config, folder: Path, fleet: Fleet) -> Transport:
    """Disk, distributed or ipc, with checksums where they are asked for."""
    section, device = config.sync, config.rollout.device
    transport: Transport
    if section.transport == "disk":
        transport = DiskSync(folder, config.model.path, fleet)
    else:
        spool = Spool(section.bucket_mib * 2**20)
        flatten = device == "cuda" if section.flatten is None else section.flatten
        backend = "nccl" if device == "cuda" else "gloo"
        carrier = Broadcast(backend, flatten=flatten) if section.transport == "distributed" else Handles(device)
        transport = StreamSync(spool, carrier, fleet)
    return Verified(transport, fleet, section.verify_every, device) if section.verify_every else transport


class Verified:
    """A transport whose every k-th version is compared with what the servers then hold."""

    def __init__(self, transport: Transport, fleet: Fleet, every: int, device: Literal["cpu", "cuda"]) -> None:
        self.transport, self.fleet, self.every, self.device = transport, fleet, every, device
        self.num_updates = 0

    def publish(self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str) -> None:
        """As the transport does.

        Raises:
            RolloutError: naming the server and the first parameter that differs, or that it knows no checksums.
        """
        watched, compare = self._watched(tensors, architecture, dtype, version)
        self.transport.publish(watched, architecture, dtype, version)
        compare()

    def stage(
        self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str
    ) -> Callable[[], None]:
        """As the transport does, and we hash what passes; servers are compared with that after they have it all."""
        watched, compare = self._watched(tensors, architecture, dtype, version)
        deliver = self.transport.stage(watched, architecture, dtype, version)

        def deliver_and_compare() -> None:
            deliver()
            compare()

        return deliver_and_compare

    def _watched(
        self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str
    ) -> tuple[HfTensors, Callable[[], None]]:
        """The tensors, hashed as they pass where it is this version's turn, and what compares servers with that."""
        self.num_updates += 1
        if self.num_updates % self.every:
            return tensors, lambda: None
        expected = Checksums(architecture, dtype, self.fleet.num_ranks(), self.device)
        return expected.watch(tensors), lambda: self._compare(expected, version)

    def _compare(self, expected: Checksums, version: str) -> None:
        for url, served in self._served().items():
            difference = expected.difference(served)
            if difference:
                raise RolloutError(
                    f"{url} does not serve weights {version} as they are: {difference}; it has kept older ones, or "
                    f"keeps them in another dtype (then set sync.verify_every: 0)"
                )

    def _served(self) -> dict[str, list[dict[str, str]]]:
        """By server; one that knows no checksums could keep old weights unseen."""
        try:
            return self.fleet.checksums()
        except RequestRefused as error:
            raise RolloutError(
                f"sync.verify_every: {self.every}, but {error}; without checksums old weights under a new label go "
                f"unseen: use a server that has /weights_checker, or set it to 0"
            ) from error
