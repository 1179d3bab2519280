"""All rollout servers of a run behind a few blocking calls; an event loop in a thread of its own does the talking.

A request whose server is lost is sent again elsewhere. The lost server is fenced: it is started again (or waited for),
gets the current weights, and only then serves. Both have budgets; a used-up one stops the run with the cause.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from egrc_mega.config.schema import RolloutSection
from egrc_mega.errors import RolloutError
from egrc_mega.rollout import segments
from egrc_mega.rollout.client import RequestRefused, ServerBusy, ServerClient, ServerLost, new_session
from egrc_mega.rollout.discovery import check_host, find_servers
from egrc_mega.rollout.process import start_server
from egrc_mega.rollout.segments import Environment
from egrc_mega.rollout.server import BACKOFF_S, LONGEST_BACKOFF_S, Server, load
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.stream import Stream, complete
from egrc_mega.rollout.weights import FolderWeights, Weights
from egrc_mega.types import Completion, FinishReason, RolloutRequest

T = TypeVar("T")
BUSY_PAUSE_S = 1.0
"""Before a server that was too busy is asked again."""


class Fleet:
    """Use as a context manager: leaving it stops the servers that it started."""

    def __init__(
        self,
        section: RolloutSection,
        model_path: Path,
        weight_version: str,
        log_dir: Path,
        vocab_size: int | None,
        note: Callable[[str], None],
    ) -> None:
        self.section, self.model_path, self.log_dir, self.note = section, model_path, log_dir, note
        self.vocab_size = vocab_size
        self.servers: list[Server] = []
        self.weights: Weights = FolderWeights(model_path, weight_version)
        """What every server must serve."""
        self._loading = asyncio.Lock()
        """Held while servers load: what is being sent does not change under them."""
        self.stats = FleetStats()
        self._versions: list[str] = []
        self._num_confirmed = 0
        """How many of the versions so far every server had confirmed."""
        self._failure: RolloutError | None = None
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fleet", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        section: RolloutSection,
        model_path: Path,
        weight_version: str,
        log_dir: Path,
        *,
        vocab_size: int | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Start servers, or attach to those that run already.

        Args:
            vocab_size: of the model; prompts are held against it, for an unknown id ends a server of SGLang.
            note: gets a line, from another thread, when a server is lost and when it serves again.

        Raises:
            RolloutError: a server does not come up, a port is in use, a URL does not answer.
        """
        fleet = cls(section, model_path, weight_version, log_dir, vocab_size, note)
        try:
            fleet._start()
        except BaseException:
            fleet.close()
            raise
        return fleet

    def _start(self) -> None:
        section = self.section
        check_host(section)
        self._session = self.run(_async_call(new_session))
        if section.server == "external":
            for number, url in enumerate(find_servers(section)):
                self.servers.append(Server(number, self._client(url), None))
        else:
            for number in range(section.num_servers):
                log = self.log_dir / f"server_{number}.log"
                process = start_server(
                    section, self.model_path, number=number, weight_version=self.weights.version, log=log
                )
                self.servers.append(Server(number, self._client(process.url or ""), process))
        for server in self.servers:
            if server.process is not None:
                server.client.url = server.process.wait_until_ready(section.start_timeout_s)
            if not self.run(server.can_be_used()):
                raise RolloutError(
                    f"rollout.urls: {server.client.url} does not answer /health; start the server first, or take away "
                    f"what says that it is there"
                )

    def _client(self, url: str) -> ServerClient:
        return ServerClient(self._session, url, self.section.request_timeout_s, self.vocab_size)

    def stream(self, environment: Environment | None = None) -> Stream:
        """Requests that are sent and answered while the caller does other things."""
        return Stream(self, environment)

    def generate(self, requests: Sequence[RolloutRequest], environment: Environment | None = None) -> list[Completion]:
        """Completions in the order of the requests; the samples of a prompt go to one server while it serves.

        Raises:
            RolloutError: a request was refused or lost too often, or a server did not come back.
        """
        found: dict[str, Completion] = {}
        with self.stream(environment) as stream:
            stream.add(requests)
            while stream.num_open:
                found |= {completion.rid: completion for completion in complete(stream.take())}
        return [found[request.rid] for request in requests]

    def check_ids(self, requests: Sequence[RolloutRequest]) -> None:
        """Refuse input ids that would end a server.

        Raises:
            RolloutError: naming the prompt and the id.
        """
        limit = self.vocab_size
        for request in requests:
            for token in request.prompt.token_ids:
                if limit is not None and not 0 <= token < limit:
                    raise RolloutError(
                        f"prompt {request.prompt.id}: input id {token} is outside the model's vocabulary of {limit}; "
                        f"the tokenizer is another model's"
                    )

    def revive(self) -> None:
        """Start again what has died or gone silent. Which weights it gets is the business of the run that uses it.

        Raises:
            RolloutError: a server did not come back, or restarts are used up.
        """
        self.run(self._revive())

    async def _revive(self) -> None:
        watched = [server for server in self.servers if server.is_serving]
        are_there = await asyncio.gather(*(server.is_there() for server in watched))
        for server, is_there in zip(watched, are_there, strict=True):
            if not is_there:
                cause = ServerLost(f"{server.client.url} has ended or is silent")
                self._fence(server, cause, self._restart(server, cause))
        if self._failure is not None:
            raise self._failure

    async def answered(
        self, request: RolloutRequest, stream: Stream, home: Server, begun: Completion | None
    ) -> Completion:
        """One completion, whichever server gives it: the same tokens where seeds decide.

        Raises:
            RequestRefused: the server says that no server will do.
            RolloutError: lost too often, or a server did not come back.
        """
        now = asyncio.get_running_loop().time
        deadline, num_losses = now() + self.section.request_timeout_s, 0
        for attempt in itertools.count():
            server = None if stream.is_aborting else await self._serving(home)
            if server is None or stream.is_aborting:
                return begun or segments.empty(request)
            try:
                return await self._attempt(request, attempt, server, stream, begun)
            except ServerBusy as error:
                if now() > deadline:
                    patience = f"rollout.request_timeout_s = {self.section.request_timeout_s:g} s"
                    raise RolloutError(f"{error}, and so for all of {patience}") from error
                await asyncio.sleep(BUSY_PAUSE_S)
            except ServerLost as error:
                num_losses += 1
                if num_losses == self.section.max_attempts:
                    raise RolloutError(
                        f"request {request.rid} was lost in all {num_losses} attempts (rollout.max_attempts): {error}"
                    ) from error
        raise AssertionError("unreachable")

    async def _attempt(
        self, request: RolloutRequest, attempt: int, server: Server, stream: Stream, begun: Completion | None
    ) -> Completion:
        """One completion from this server; it is fenced when it fails.

        Raises:
            ServerLost, RequestRefused: see `answered`.
        """
        confirmed = self._num_confirmed
        # a server that we gave up may still hold the first attempt, and takes no id twice
        sent = replace(request, rid=f"again{attempt}-{request.rid}") if attempt else request
        server.in_flight += 1
        self.stats.enter()
        try:
            completion = await segments.generate(server.client, sent, stream.environment, begun)
            completion = replace(completion, rid=request.rid)
            self._check_versions(completion, begun, confirmed, server)
        except ServerLost as error:
            self.stats.num_lost_requests += 1
            if not isinstance(error, ServerBusy):
                self._fence(server, error)
            raise
        finally:
            server.in_flight -= 1
            self.stats.leave()
        if completion.finish_reason is FinishReason.ABORT and not stream.is_aborting:
            self.stats.num_lost_requests += 1
            raise ServerLost(f"{server.client.url} aborted request {request.rid}, which nobody asked for")
        return completion

    def _check_versions(
        self, completion: Completion, begun: Completion | None, num_confirmed: int, server: Server
    ) -> None:
        """New tokens come from weights that were current when the request left, or later ones."""
        if num_confirmed == 0:
            return  # servers that run already may call their first weights anything
        allowed = self._versions[num_confirmed - 1 :]
        old = len(begun.output_ids) if begun else 0
        for span in completion.weight_versions:
            if span.end > old and span.version not in allowed:
                raise ServerLost(
                    f"reply of {server.client.url} to request {completion.rid} is unusable: sampled from weights "
                    f"{span.version!r}, current are {allowed}"
                )

    async def _serving(self, home: Server) -> Server:
        """The prompt's own server, else the least loaded; waits while none serves."""
        while True:
            if self._failure is not None:
                raise self._failure
            if home.is_serving:
                return home
            serving = [server for server in self.servers if server.is_serving]
            if serving:
                return min(serving, key=lambda server: server.in_flight)
            # each recovery has its own deadline, and ends in service or in a failure
            await asyncio.wait([s.recovery for s in self.servers if s.recovery], return_when=asyncio.FIRST_COMPLETED)

    def _fence(self, server: Server, cause: RolloutError, cure: Coroutine[Any, Any, None] | None = None) -> None:
        """No request goes there until `cure` has ended; by default, until it is well and has the current weights."""
        cure = cure or self._recover(server)
        if server.recovery is None or server.recovery.done():
            server.is_serving = False
            server.recovery = asyncio.get_running_loop().create_task(self._bring_back(server, cure))
            self._say(f"server {server.number} serves no more: {cause}")
        else:
            cure.close()

    async def _bring_back(self, server: Server, cure: Coroutine[Any, Any, None]) -> None:
        try:
            await cure
            # nothing is awaited in between: the weights are still those that the cure has seen
            server.is_serving = True
            self._say(f"server {server.number} serves again, at {server.client.url}")
        except RolloutError as error:
            self._failure = error
        except Exception as error:
            # whoever waits for this server must hear of it
            self._failure = RolloutError(f"{server.client.url} could not be brought back: {error!r}")
            self._failure.__cause__ = error

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk or a closed pipe is nobody's loss
            self.note(line)

    async def _recover(self, server: Server) -> None:
        """Until it has the weights that are current by then, which may change meanwhile."""
        while not await self._is_current(server):
            cause = await self._reload(server)
            if cause is not None:
                await self._restart(server, cause)

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
            async with self._loading:
                weights = self.weights
                await load([server], weights, self.section.update_timeout_s)
        except (ServerLost, RequestRefused) as error:
            return error
        if weights is self.weights and not await server.is_well(weights.version):
            return ServerLost(f"{server.client.url} took weights {weights.version!r} and is not well")
        return None

    async def _restart(self, server: Server, cause: RolloutError) -> None:
        """Until it is there: one that has just ended may still hold its port or its memory.

        Raises:
            RolloutError: restarts are used up, or an external server stays away.
        """
        while True:
            self.stats.num_restarts += 1
            if self.stats.num_restarts > self.section.max_restarts:
                raise RolloutError(
                    f"{cause}; rollout.max_restarts = {self.section.max_restarts} is used up{_tail(server)}"
                ) from cause
            await asyncio.sleep(min(BACKOFF_S * 2 ** (self.stats.num_restarts - 1), LONGEST_BACKOFF_S))
            try:
                return await server.wait_until_back(self.section, self.model_path, self.log_dir)
            except RolloutError as error:
                if server.process is None:
                    raise
                cause = error

    def release_memory(self) -> None:
        """Colocated servers, idle now, free their GPU memory until the next weights come.

        Raises:
            RolloutError: a server was lost and did not come back.
        """
        # one that is lost comes back first, and is freed then: it must not load beside the training
        self.run(self._of_all(lambda server: server.release_memory()))

    async def _of_all(self, ask: Callable[[Server], Coroutine[Any, Any, T]]) -> list[T]:
        """Every server's answer. One that is lost is asked again once it is back.

        Raises:
            RolloutError: a server refused, did not come back, or was lost each time.
        """
        for _attempt in range(self.section.max_attempts):
            await self._recovered()
            outcomes = await asyncio.gather(*(ask(server) for server in self.servers), return_exceptions=True)
            lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if not lost:
                return cast(list[T], outcomes)
            for server, outcome in zip(self.servers, outcomes, strict=True):
                if isinstance(outcome, ServerLost):
                    self._fence(server, outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome
        raise RolloutError(f"{lost[0]}, in all {self.section.max_attempts} attempts (rollout.max_attempts)") from lost[
            0
        ]

    async def _recovered(self) -> None:
        """Every server serves.

        Raises:
            RolloutError: one did not come back.
        """
        await asyncio.gather(*(server.recovery for server in self.servers if server.recovery))
        if self._failure is not None:
            raise self._failure

    def update_weights(
        self, weights: Weights, produce: Callable[[], None] = lambda: None, before: Callable[[], None] = lambda: None
    ) -> None:
        """Move every server to other weights; returns when all of them confirm the version.

        Args:
            produce: runs in the calling thread while the servers load.
            before: runs when no server reads the old weights any longer.

        Raises:
            RolloutError: one of them refused, or was lost and did not come back.
        """
        self.run(self._loading.acquire())
        before()
        self.weights = weights
        self._versions.append(weights.version)
        update = asyncio.run_coroutine_threadsafe(self._update_all(), self.loop)
        try:
            produce()
        except BaseException as error:
            # servers may hold a part of them, and there is no whole to bring them to
            self._failure = RolloutError(f"weights {weights.version!r} were not gathered whole: {error!r}")
            update.cancel()
            raise
        update.result()

    async def _update_all(self) -> None:
        """Together; if that fails, each by itself, and none serves before it has the weights whole."""
        serving = [server for server in self.servers if server.is_serving]
        try:
            if serving:
                await load(serving, self.weights, self.section.update_timeout_s)
        except (ServerLost, RequestRefused) as error:
            for server in serving:
                self._fence(server, error)
        finally:
            self._loading.release()
        await self._recovered()
        self._num_confirmed = len(self._versions)

    def num_ranks(self) -> list[int]:
        """Of each server."""
        return self.run(self._of_all(lambda server: server.client.num_ranks()))

    def checksums(self) -> dict[str, list[dict[str, str]]]:
        """By server, its ranks' checksums of their parameters."""
        found = self.run(self._of_all(lambda server: server.client.checksums(self.section.update_timeout_s)))
        return dict(zip([server.client.url for server in self.servers], found, strict=True))

    def take_stats(self) -> dict[str, Any]:
        """Since the last call; see `FleetStats`."""
        return self.stats.take(self.servers)

    def close(self) -> None:
        """Stop the servers; harmless when called twice."""
        if self.loop.is_closed():
            return
        self.run(self._end_tasks())
        if hasattr(self, "_session"):
            self.run(self._session.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        for server in self.servers:
            if server.process is not None:
                server.process.stop()

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the loop's thread; every coroutine here has its own deadlines."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def explained(self, error: BaseException) -> BaseException:
        """Say so when the cause is a server process that has ended."""
        for server in self.servers:
            if server.process is not None and (code := server.process.process.poll()) is not None:
                found = RolloutError(f"{error}; server {server.number} ended with exit code {code}{_tail(server)}")
                found.__cause__ = error
                return found
        return error


def _tail(server: Server) -> str:
    return f": {server.process.log_tail()}" if server.process is not None else ""


async def _async_call(function: Any) -> Any:
    return function()
