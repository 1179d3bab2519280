"""Brings lost servers back. One that is lost is fenced: no request goes there until it serves the current weights.

It is looked at, loaded if it lives, and started again with backoff (an external one: waited for) if that fails. A
budget says how often; a used-up one stops the run with the cause.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

from egrc_mega.config.schema import RolloutSection
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import RequestRefused, ServerLost
from egrc_mega.rollout.server import BACKOFF_S, LONGEST_BACKOFF_S, Server, load
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.weights import Weights

T = TypeVar("T")


class Recovery:
    """Of a fleet's servers. Everything here runs in the fleet's event loop."""

    def __init__(
        self,
        section: RolloutSection,
        servers: list[Server],
        weights: Weights,
        model_path: Path,
        log_dir: Path,
        stats: FleetStats,
        note: Callable[[str], None],
    ) -> None:
        self.section, self.servers, self.stats, self.note = section, servers, stats, note
        self.model_path, self.log_dir = model_path, log_dir
        self.weights = weights
        """What every server must serve."""
        self.loading = asyncio.Lock()
        """Held while servers load: what is being sent does not change under them."""
        self.failure: RolloutError | None = None
        """Why the fleet can be used no longer."""

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    def fence(self, server: Server, cause: RolloutError, cure: Coroutine[Any, Any, None] | None = None) -> None:
        """No request goes there until `cure` has ended; by default, until it is well and has the current weights."""
        cure = cure or self._recover(server)
        if server.recovery is None or server.recovery.done():
            server.is_serving = False
            server.recovery = asyncio.get_running_loop().create_task(self._bring_back(server, cure))
            self._say(f"server {server.number} is fenced: {cause}")
        else:
            cure.close()

    async def _bring_back(self, server: Server, cure: Coroutine[Any, Any, None]) -> None:
        try:
            await cure
            # nothing is awaited in between: the weights are still those that the cure has seen
            server.is_serving = True
            self._say(f"server {server.number} serves again, at {server.client.url}")
        except RolloutError as error:
            self.failure = error
        except Exception as error:
            # whoever waits for this server must hear of it
            self.failure = RolloutError(f"{server.client.url} could not be brought back: {error!r}")
            self.failure.__cause__ = error

    def _say(self, line: str) -> None:
        self.stats.events.append(line)
        with contextlib.suppress(OSError, ValueError):  # a full disk or a closed pipe is nobody's loss
            self.note(line)

    async def _recover(self, server: Server) -> None:
        """Until it has the weights that are current by then, which may change meanwhile."""
        while not await self._is_current(server):
            cause = await self._reload(server)
            if cause is not None:
                await self.restart(server, cause)

    async def _is_current(self, server: Server) -> bool:
        """It is well, not paused, and has the weights that are current when this returns."""
        weights = self.weights
        if not await server.is_well(weights.version):
            return False
        try:
            await server.client.resume()
        except (ServerLost, RequestRefused):
            return False
        return weights is self.weights

    async def _reload(self, server: Server) -> RolloutError | None:
        """Give it the current weights, if it lives; else say why that is not possible."""
        if not server.is_alive():
            return ServerLost(f"server {server.client.url} has ended")
        try:
            async with self.loading:
                weights = self.weights
                await load([server], weights, self.section.update_timeout_s)
        except (ServerLost, RequestRefused) as error:
            return error
        if weights is self.weights and not await server.is_well(weights.version):
            return ServerLost(f"{server.client.url} took weights {weights.version!r} and is not well")
        return None

    async def restart(self, server: Server, cause: RolloutError) -> None:
        """Start it, again and again until it is there: one that has just ended may still hold its port or its memory.

        Raises:
            RolloutError: restarts are used up, or an external server stays away.
        """
        while True:
            self.stats.num_restarts += 1
            if self.stats.num_restarts > self.section.max_restarts:
                raise RolloutError(
                    f"{cause}; rollout.max_restarts = {self.section.max_restarts} is used up{server.log_tail()}"
                ) from cause
            await asyncio.sleep(min(BACKOFF_S * 2 ** (self.stats.num_restarts - 1), LONGEST_BACKOFF_S))
            try:
                return await server.wait_until_back(self.section, self.model_path, self.log_dir)
            except RolloutError as error:
                if server.process is None:
                    raise
                cause = error
                self._say(f"server {server.number} did not come back: {error}")

    async def of_all(self, ask: Callable[[Server], Coroutine[Any, Any, T]]) -> list[T]:
        """Every server's answer. One that is lost is asked again once it is back.

        Raises:
            RolloutError: a server refused, did not come back, or was lost each time.
        """
        for _attempt in range(self.section.max_attempts):
            await self.recovered()
            outcomes = await asyncio.gather(*(ask(server) for server in self.servers), return_exceptions=True)
            lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if not lost:
                return cast(list[T], outcomes)
            for server, outcome in zip(self.servers, outcomes, strict=True):
                if isinstance(outcome, ServerLost):
                    self.fence(server, outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
        cause, attempts = lost[0], self.section.max_attempts
        raise RolloutError(f"{cause}, in all {attempts} attempts (rollout.max_attempts)") from cause

    async def recovered(self) -> None:
        """Every server serves.

        Raises:
            RolloutError: one did not come back.
        """
        await asyncio.gather(*(server.recovery for server in self.servers if server.recovery))
        self.check()
