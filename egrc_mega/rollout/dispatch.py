"""Where a request goes: to its prompt's server while that serves, else elsewhere, and never to stale weights."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from egrc_mega.errors import RolloutError
from egrc_mega.rollout import segments
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.errors import RequestRefused, ServerBusy, ServerLost
from egrc_mega.rollout.recovery import Recovery
from egrc_mega.rollout.server import Server
from egrc_mega.rollout.state import State
from egrc_mega.rollout.versions import Versions
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.types import Completion, FinishReason, RolloutRequest

BUSY_PAUSE_S = 1.0
"""Before a server that was too busy is asked again."""

IDLE = (State.PAUSED, State.FREED)
"""Only new weights bring a server from there into service."""


@dataclass(slots=True, eq=False)
class Ticket:
    """What the requests of a stream share."""

    environment: Environment | None
    is_aborting: bool = False


class Dispatcher:
    """Gets every request answered by some server. Everything here runs in the fleet's event loop."""

    def __init__(
        self, section: RolloutSection, servers: Sequence[Server], recovery: Recovery, versions: Versions
    ) -> None:
        self.section, self.servers, self.recovery, self.versions = section, servers, recovery, versions
        self.stats = recovery.stats

    async def answered(
        self, request: RolloutRequest, ticket: Ticket, home: Server, begun: Completion | None
    ) -> Completion:
        """One completion, whichever server gives it: the same tokens where seeds decide.

        Raises:
            RequestRefused: the server says that no server will do.
            RolloutError: lost too often, or a server did not come back; with the exit code of one that has ended.
        """
        try:
            return await self._answered(request, ticket, home, begun)
        except RequestRefused:
            raise
        except RolloutError as error:
            ended = self._ended()
            if not ended:
                raise
            raise RolloutError(f"{error}; {ended}") from error

    async def _answered(
        self, request: RolloutRequest, ticket: Ticket, home: Server, begun: Completion | None
    ) -> Completion:
        patience = _Patience(request.rid, self.section)
        busy: Server | None = None
        while not ticket.is_aborting:
            server = await self._serving(home, busy)
            if ticket.is_aborting:
                break
            try:
                completion = await self._attempt(patience.named(request), server, ticket, begun)
                return replace(completion, rid=request.rid)
            except ServerBusy as error:
                patience.note_busy(error)
                busy = server
                self.stats.num_busy_replies += 1
                await asyncio.sleep(BUSY_PAUSE_S)
            except ServerLost as error:
                self.recovery.check()
                self.stats.num_lost_requests += 1
                patience.note_loss(error)
        return begun or segments.unsampled(request)

    async def _serving(self, home: Server, busy: Server | None) -> Server:
        """The prompt's own server, else the least loaded, and another than the busy one; waits while none serves."""
        while True:
            self.recovery.check()
            if home.is_serving and home is not busy:
                return home
            serving = [server for server in self.servers if server.is_serving]
            if serving:
                return min(serving, key=lambda server: (server is busy, server.in_flight))
            if all(server.state in IDLE for server in self.servers):
                raise RolloutError("rollout.colocated: servers that have freed their memory can answer no request")
            # every start, load and recovery has its own deadline, and ends in service or in a failure
            self.recovery.changed.clear()
            await self.recovery.changed.wait()

    async def _attempt(
        self, request: RolloutRequest, server: Server, ticket: Ticket, begun: Completion | None
    ) -> Completion:
        """One completion from this server; it is fenced when it fails.

        Raises:
            ServerLost, RequestRefused: see `answered`.
        """
        mark = self.versions.since_now()
        num_begun = len(begun.output_ids) if begun else 0
        try:
            with self._in_flight(server, request) as facts:
                completion = await segments.generate(server.client, request, ticket.environment, begun)
                facts |= {"tokens": len(completion.output_ids) - num_begun, "finish": completion.finish_reason.value}
                stale = self.versions.stale(completion, num_begun, mark)
                if stale is not None:
                    raise ServerLost(f"reply of {server.client.url} to request {request.rid} is unusable: {stale}")
        except ServerBusy:
            raise
        except ServerLost as error:
            self.recovery.fence(server, error)
            raise
        if completion.finish_reason is FinishReason.ABORT and not ticket.is_aborting:
            raise ServerLost(f"{server.client.url} aborted request {request.rid}, which nobody asked for")
        return completion

    @contextmanager
    def _in_flight(self, server: Server, request: RolloutRequest) -> Iterator[dict[str, Any]]:
        """The server has the request; yields facts for its timeline."""
        server.in_flight += 1
        self.stats.enter(server.number)
        try:
            with server.timeline.request(request.rid) as facts:
                yield facts
        finally:
            server.in_flight -= 1
            self.stats.leave(server.number)

    def _ended(self) -> str:
        """In words, which server process has ended, and how; empty when none has."""
        for server in self.servers:
            if server.process is not None and (code := server.process.process.poll()) is not None:
                return f"server {server.number} ended with exit code {code}{server.log_tail()}"
        return ""


class _Patience:
    """How often one request may be lost, and how long it may be sent away."""

    def __init__(self, rid: str, section: RolloutSection) -> None:
        self.rid, self.section = rid, section
        self.deadline = asyncio.get_running_loop().time() + section.request_timeout_s
        self.num_attempts = self.num_losses = 0

    def named(self, request: RolloutRequest) -> RolloutRequest:
        """The request under an id that no server has seen: one that we gave up may still hold the attempt before."""
        self.num_attempts += 1
        again = self.num_attempts - 1
        return replace(request, rid=f"again{again}-{request.rid}") if again else request

    def note_busy(self, error: ServerBusy) -> None:
        """Raises RolloutError once the request's deadline is over."""
        if asyncio.get_running_loop().time() > self.deadline:
            timeout_s = self.section.request_timeout_s
            patience = f"rollout.request_timeout_s = {timeout_s:g} s"
            raise RolloutError(f"{error}, and so for all of {patience}") from TimeoutError()

    def note_loss(self, error: ServerLost) -> None:
        """Raises RolloutError once the request has been lost too often."""
        self.num_losses += 1
        if self.num_losses == self.section.max_attempts:
            raise RolloutError(
                f"request {self.rid} was lost in all {self.num_losses} attempts (rollout.max_attempts): {error}"
            ) from error
