"""What servers are to serve: a version, and a way to bring servers to it, however often one is lost and comes back."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from egrc_mega.rollout.client import ServerClient


class Weights(Protocol):
    """One version of the model."""

    @property
    def version(self) -> str:
        """Its name, the same on every server."""

    async def load_into(self, clients: Sequence[ServerClient], timeout_s: float, *, keeps_cache: bool = False) -> None:
        """Returns when every one of the (paused) servers has confirmed the version.

        Args:
            keeps_cache: servers forget nothing of what they have cached under the weights before.

        Raises:
            RolloutError: some servers may then have them, others not, others a part; whoever has not confirmed the
                version must not serve.
        """


@dataclass(frozen=True, slots=True)
class FolderWeights:
    """A Hugging Face folder that every server can read."""

    path: Path
    version: str

    async def load_into(self, clients: Sequence[ServerClient], timeout_s: float, *, keeps_cache: bool = False) -> None:
        flushes = not keeps_cache
        await all_of(
            client.update_weights_from_disk(self.path, self.version, timeout_s, flush_cache=flushes)
            for client in clients
        )


async def all_of(calls: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results of all calls; when some fail the others are still waited for, then the first error is raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
