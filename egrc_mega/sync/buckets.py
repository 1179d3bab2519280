"""Weights that go to the servers bucket by bucket; how a bucket travels is the carrier's business.

Until the last bucket is in, a server calls its weights `<version>-incomplete`: whoever asks can tell what was
interrupted from what is whole. Between `begin` and `end` SGLang keeps its weights in loadable form (from 0.5.21 on).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.rollout.weights import Weights, all_of
from egrc_mega.sync.spool import Bucket, Spool


class Carrier(Protocol):
    """Moves buckets of tensors to servers."""

    async def connect(self, clients: Sequence[ServerClient], timeout_s: float) -> bool:
        """Get ready to send to exactly these servers; False: over a connection that an earlier version has used."""

    async def send(self, bucket: Bucket, label: dict[str, Any], timeout_s: float) -> None:
        """Have every connected server load a bucket; `label` goes into the request."""

    def disconnect(self) -> None:
        """After an error: trust no connection."""


class Servers(Protocol):
    """What takes new weights while they are gathered, or after: see `rollout.fleet.Fleet`."""

    def update_weights(self, weights: Weights, produce: Callable[[], None], before: Callable[[], None]) -> None: ...

    def stage_weights(self, weights: Weights, fill: Callable[[], None]) -> Callable[[], None]: ...


class StreamedWeights:
    """The version in a spool."""

    def __init__(self, spool: Spool, carrier: Carrier, version: str) -> None:
        self.spool, self.carrier, self.version = spool, carrier, version

    async def load_into(self, clients: Sequence[ServerClient], timeout_s: float, *, keeps_cache: bool = False) -> None:
        is_new = True
        try:
            is_new = await self.carrier.connect(clients, timeout_s)
            await self._send(clients, timeout_s, keeps_cache)
        except (ServerLost, RequestRefused) as error:
            self.carrier.disconnect()
            if not is_new:
                # a server that has been started anew knows nothing of the old connection
                await self.load_into(clients, timeout_s, keeps_cache=keeps_cache)
            elif len(clients) > 1 and isinstance(error, RequestRefused):
                # one member's loss makes the others refuse
                raise ServerLost(str(error)) from error
            else:
                raise
        except BaseException:
            self.carrier.disconnect()
            raise

    async def _send(self, clients: Sequence[ServerClient], timeout_s: float, keeps_cache: bool) -> None:
        has_session = await all_of(client.begin_weight_update() for client in clients)
        async for bucket in self.spool.buckets():
            version = self.version if bucket.is_last else f"{self.version}-incomplete"
            label = {"weight_version": version, "flush_cache": bucket.is_last and not keeps_cache}
            await self.carrier.send(bucket, label, timeout_s)
        pairs = zip(clients, has_session, strict=True)
        await all_of(client.end_weight_update() for client, has in pairs if has)
        await all_of(client.confirm(self.version) for client in clients)


class StreamSync:
    """Sends a version as it is gathered; in flight, from the host's copy of it, which the spool has anyhow."""

    def __init__(self, spool: Spool, carrier: Carrier, servers: Servers) -> None:
        self.spool, self.carrier, self.servers = spool, carrier, servers

    def publish(
        self, tensors: Iterable[tuple[str, torch.Tensor]], architecture: Architecture, dtype: torch.dtype, version: str
    ) -> None:
        """Move every server to `version`; returns when all of them have confirmed it."""

        def fill() -> None:
            self.spool.fill(tensors, dtype)

        self.servers.update_weights(StreamedWeights(self.spool, self.carrier, version), fill, self.spool.clear)

    def stage(
        self, tensors: Iterable[tuple[str, torch.Tensor]], architecture: Architecture, dtype: torch.dtype, version: str
    ) -> Callable[[], None]:
        """Copy `tensors` to the host; what is returned sends them from there, in any thread."""

        def fill() -> None:
            self.spool.clear()
            self.spool.fill(tensors, dtype)

        return self.servers.stage_weights(StreamedWeights(self.spool, self.carrier, version), fill)
