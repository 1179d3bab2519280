"""Brings lost servers back. One that is lost is fenced: no request goes there until it serves the current weights.

It is looked at, loaded if it lives, and started again with backoff (an external one: waited for) if that fails. A
budget says how often within how long; a used-up one stops the run with the cause.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.rollout.restarts import RestartBudget
from egrc_mega.rollout.server import Server, load
from egrc_mega.rollout.state import State
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.weights import Weights
from egrc_mega.sections.rollout import RolloutSection

T = TypeVar("T")


class Recovery:
    """Of a fleet's servers. Everything here runs in the fleet's event loop."""

    def __init__(
        self,
        section: RolloutSection,
        servers: list[Server],
        weights: Weights,
        stats: FleetStats,
        changed: asyncio.Event,
        note: Callable[[str], None],
    ) -> None:
        self.section, self.servers, self.stats, self.note = section, servers, stats, note
        self.changed = changed
        self.weights = weights
        """What every server must serve."""
        self.budget = RestartBudget(section.max_restarts, section.restart_window_s)
        self.loading = asyncio.Lock()
        """Held while servers load: what is being sent does not change under them."""
        self.failure: RolloutError | None = None
        """Why the fleet can be used no longer."""
        self.listeners: list[Callable[[RolloutError], None]] = []
        """Each gets that, in the fleet's loop, as soon as it is known; it must not wait."""

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure

    def fail(self, error: RolloutError) -> None:
        """The fleet can be used no longer: whoever waits for a server, or for its reply, hears of it."""
        self.failure = error
        for server in self.servers:
            server.client.hang_up()
        self.changed.set()
        for listen in self.listeners:
            listen(error)

    def fence(self, server: Server, cause: RolloutError, cure: Coroutine[Any, Any, None] | None = None) -> None:
        """No request goes there until `cure` has ended; by default, until it has the current weights and is healthy."""
        cure = cure or self._recover(server)
        if server.is_recovering or self.failure is not None:
            cure.close()
            return
        server.become(State.LOST)
        server.recovery = asyncio.get_running_loop().create_task(self._bring_back(server, cure))
        self._say(f"server {server.number} is fenced: {cause}")

    async def _bring_back(self, server: Server, cure: Coroutine[Any, Any, None]) -> None:
        try:
            await cure
            # nothing is awaited in between: the weights are still those that the cure has seen
            server.become(State.SERVING)
            self._say(f"server {server.number} serves again, at {server.client.url}")
        except RolloutError as error:
            self.fail(error)
        except Exception as error:
            # whoever waits for this server must hear of it
            failure = RolloutError(f"{server.client.url} could not be brought back: {error!r}")
            failure.__cause__ = error
            self.fail(failure)

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
        """It is healthy, not paused, and has the weights that are current when this returns."""
        weights = self.weights
        if not await server.serves(weights.version):
            return False
        try:
            await server.client.resume()
        except (ServerLost, RequestRefused):
            return False
        return weights is self.weights

    async def _reload(self, server: Server) -> RolloutError | None:
        """Give it the current weights, if it lives; else say why that is not possible."""
        if not server.process_lives():
            return ServerLost(f"server {server.client.url} has ended")
        try:
            async with self.loading:
                weights = self.weights
                await load([server], weights, self.section.update_timeout_s)
        except (ServerLost, RequestRefused) as error:
            return error
        if weights is self.weights and not await server.serves(weights.version):
            return ServerLost(f"{server.client.url} took weights {weights.version!r} and is not healthy")
        return None

    async def restart(self, server: Server, cause: RolloutError) -> None:
        """Start it, again and again until it is there: one that has just ended may still hold its port or its memory.

        Raises:
            RolloutError: restarts are used up, or an external server stays away.
        """
        while self.budget.take():
            self.stats.num_restarts += 1
            await asyncio.sleep(self.budget.backoff_s())
            try:
                return await server.come_back(self.section.start_timeout_s)
            except RolloutError as error:
                if server.process is None:
                    raise
                cause = error
                self._say(f"server {server.number} did not come back: {error}")
        raise RolloutError(f"{cause}; {self.budget} is used up{server.log_tail()}") from cause

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
        """Every server that was lost is back.

        Raises:
            RolloutError: one did not come back.
        """
        await asyncio.gather(*(server.recovery for server in self.servers if server.recovery))
        self.check()
