"""All rollout servers of a run behind a few blocking calls; an event loop in a thread of its own does the talking.

A request whose server is lost is sent again elsewhere, so many times; how the server comes back is `recovery`'s.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from egrc_mega.config.schema import RolloutSection
from egrc_mega.errors import RolloutError
from egrc_mega.rollout import segments
from egrc_mega.rollout.client import RequestRefused, ServerBusy, ServerClient, ServerLost, new_session
from egrc_mega.rollout.discovery import check_host, find_servers
from egrc_mega.rollout.process import start_server
from egrc_mega.rollout.recovery import Recovery
from egrc_mega.rollout.segments import Environment
from egrc_mega.rollout.server import Server, load
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
        self.section, self.model_path, self.log_dir = section, model_path, log_dir
        self.vocab_size = vocab_size
        self.servers: list[Server] = []
        self.stats = FleetStats()
        weights = FolderWeights(model_path, weight_version)
        self.recovery = Recovery(section, self.servers, weights, model_path, log_dir, self.stats, note)
        self._versions: list[str] = []
        self._num_confirmed = 0
        """How many of the versions so far every server had confirmed."""
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
                    section, self.model_path, number=number, weight_version=self.recovery.weights.version, log=log
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

    def check(self, requests: Sequence[RolloutRequest]) -> None:
        """Refuse requests that ask for nothing, and input ids that would end a server.

        Raises:
            RolloutError: naming the prompt, and the id or the cap.
        """
        limit = self.vocab_size
        for request in requests:
            num_forced, cap = len(request.forced_ids), request.sampling.max_new_tokens
            if num_forced >= cap:
                raise RolloutError(
                    f"prompt {request.prompt_id}: {num_forced} forced tokens leave none of max_new_tokens = {cap} to "
                    f"be sampled; force fewer, or raise the cap"
                )
            for ids in (request.prompt_ids, request.forced_ids):
                unknown = ids[(ids < 0) | (ids >= limit)] if limit is not None else ids[:0]
                if len(unknown):
                    raise RolloutError(
                        f"prompt {request.prompt_id}: input id {unknown[0]} is outside the model's vocabulary of "
                        f"{limit}; the tokenizer is another model's"
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
                self.recovery.fence(server, cause, self.recovery.restart(server, cause))
        self.recovery.check()

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
        busy: Server | None = None
        for attempt in itertools.count():
            server = None if stream.is_aborting else await self._serving(home, busy)
            if server is None or stream.is_aborting:
                return begun or segments.unsampled(request)
            try:
                return await self._attempt(request, attempt, server, stream, begun)
            except ServerBusy as error:
                if now() > deadline:
                    patience = f"rollout.request_timeout_s = {self.section.request_timeout_s:g} s"
                    raise RolloutError(f"{error}, and so for all of {patience}") from error
                busy = server
                self.stats.num_busy_replies += 1
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
        except ServerBusy:
            raise
        except ServerLost as error:
            self.stats.num_lost_requests += 1
            self.recovery.fence(server, error)
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

    async def _serving(self, home: Server, busy: Server | None) -> Server:
        """The prompt's own server, else the least loaded, and another than the busy one; waits while none serves."""
        while True:
            self.recovery.check()
            if home.is_serving and home is not busy:
                return home
            serving = [server for server in self.servers if server.is_serving]
            if serving:
                return min(serving, key=lambda server: (server is busy, server.in_flight))
            # each recovery has its own deadline, and ends in service or in a failure
            await asyncio.wait([s.recovery for s in self.servers if s.recovery], return_when=asyncio.FIRST_COMPLETED)

    def release_memory(self) -> None:
        """Colocated servers, idle now, free their GPU memory until the next weights come.

        Raises:
            RolloutError: a server was lost and did not come back.
        """
        # one that is lost comes back first, and is freed then: it must not load beside the training
        self.run(self.recovery.of_all(lambda server: server.release_memory()))

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
        self.run(self.recovery.loading.acquire())
        before()
        self.recovery.weights = weights
        self._versions.append(weights.version)
        update = asyncio.run_coroutine_threadsafe(self._update_all(), self.loop)
        try:
            produce()
        except BaseException as error:
            # servers may hold a part of them, and there is no whole to bring them to
            self.recovery.failure = RolloutError(f"weights {weights.version!r} were not gathered whole: {error!r}")
            update.cancel()
            raise
        update.result()

    async def _update_all(self) -> None:
        """Together; if that fails, each by itself, and none serves before it has the weights whole."""
        serving = [server for server in self.servers if server.is_serving]
        try:
            if serving:
                await load(serving, self.recovery.weights, self.section.update_timeout_s)
        except (ServerLost, RequestRefused) as error:
            for server in serving:
                self.recovery.fence(server, error)
        finally:
            self.recovery.loading.release()
        await self.recovery.recovered()
        self._num_confirmed = len(self._versions)

    def num_ranks(self) -> list[int]:
        """Of each server."""
        return self.run(self.recovery.of_all(lambda server: server.client.num_ranks()))

    def checksums(self) -> dict[str, list[dict[str, str]]]:
        """By server, its ranks' checksums of their parameters."""
        found = self.run(self.recovery.of_all(lambda server: server.client.checksums(self.section.update_timeout_s)))
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
                found = RolloutError(f"{error}; server {server.number} ended with exit code {code}{server.log_tail()}")
                found.__cause__ = error
                return found
        return error


async def _async_call(function: Any) -> Any:
    return function()
