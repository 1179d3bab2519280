"""All rollout servers of a run behind a few blocking calls; an event loop in a thread of its own does the talking.

Where a request goes is `dispatch`'s business, how a lost server comes back is `recovery`'s.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.dispatch import Dispatcher
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.rollout.recovery import Recovery
from egrc_mega.rollout.restarts import RestartBudget
from egrc_mega.rollout.server import Launch, Server, load
from egrc_mega.rollout.start.discovery import check_host, find_servers
from egrc_mega.rollout.start.process import start_server
from egrc_mega.rollout.state import State
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.stream import Stream, complete
from egrc_mega.rollout.versions import Versions
from egrc_mega.rollout.weights import FolderWeights, Weights
from egrc_mega.sections.rollout import Cache, RolloutSection
from egrc_mega.types import Completion, RolloutRequest

T = TypeVar("T")


class Fleet:
    """Use as a context manager: leaving it stops the servers that it started."""

    def __init__(
        self,
        section: RolloutSection,
        weights: Weights,
        vocab_size: int | None,
        note: Callable[[str], None],
        cache: Cache = "recompute",
    ) -> None:
        self.section, self.vocab_size = section, vocab_size
        self.servers: list[Server] = []
        self.stats = FleetStats()
        self.versions = Versions(cache)
        self.changed = asyncio.Event()
        self.recovery = Recovery(section, self.servers, weights, self.stats, self.changed, note)
        self.dispatcher = Dispatcher(section, self.servers, self.recovery, self.versions)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fleet", daemon=True)
        self._thread.start()
        self._session = self.run(open_session())

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
        cache: Cache = "recompute",
        waits: bool = True,
    ) -> Self:
        """Start servers, or attach to those that run already.

        Args:
            vocab_size: of the model; prompts are held against it, for an unknown id ends a server of SGLang.
            note: gets a line, from another thread, when a server is lost and when it serves again.
            cache: what requests in flight do with theirs when weights move.
            waits: until every server answers; else the caller does (`wait_until_ready`), before it asks for anything.

        Raises:
            RolloutError: a server does not come up, a port is in use, a URL does not answer.
        """
        fleet = cls(section, FolderWeights(model_path, weight_version), vocab_size, note, cache)
        try:
            check_host(section)
            if section.server == "external":
                fleet._attach(find_servers(section))
            else:
                fleet._launch(partial(start_server, section, model_path), log_dir)
            if waits:
                fleet.wait_until_ready()
        except BaseException:
            fleet.close()
            raise
        return fleet

    def wait_until_ready(self) -> None:
        """Until every server answers.

        Raises:
            RolloutError: one does not come up, or a URL does not answer.
        """
        self.run(self._wait_for_all())

    def wait_until_recovered(self) -> None:
        """Until every server that was lost is back; none reads weights any longer then.

        Raises:
            RolloutError: one did not come back.
        """
        self.run(self.recovery.recovered())

    def _attach(self, urls: Sequence[str]) -> None:
        for url in urls:
            self._add(url, None)

    def _launch(self, launch: Callable[..., Any], log_dir: Path) -> None:
        """All at once: they need their time to load the model."""
        for number in range(self.section.num_servers):
            server = self._add("", partial(launch, number=number, log=log_dir / f"server_{number}.log"))
            server.start(self.recovery.weights.version)

    def _add(self, url: str, launch: Launch | None) -> Server:
        client = ServerClient(self._session, url, self.section.request_timeout_s, self.vocab_size, self.versions)
        self.servers.append(Server(len(self.servers), client, self.changed, launch))
        return self.servers[-1]

    async def _wait_for_all(self) -> None:
        for server in self.servers:
            if server.process is not None:
                await server.wait_for_process(self.section.start_timeout_s)
            if not await server.resumes():
                raise RolloutError(
                    f"rollout.urls: {server.client.url} does not answer /health; start the server first, or take away "
                    f"what says that it is there"
                )
            server.become(State.SERVING)

    def stream(self, environment: Environment | None = None) -> Stream:
        """Requests that are sent and answered while the caller does other things."""
        return Stream(self.dispatcher, self.loop, environment, self.section.silence_timeout_s, self.vocab_size)

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        environment: Environment | None = None,
        tell: Callable[[Sequence[Completion]], None] = lambda completions: None,
    ) -> list[Completion]:
        """Completions in the order of the requests; the samples of a prompt go to one server while it serves.

        Args:
            tell: gets completions as they come.

        Raises:
            RolloutError: a request was refused or lost too often, or a server did not come back.
        """
        found: dict[str, Completion] = {}
        with self.stream(environment) as stream:
            stream.add(requests)
            while stream.num_open:
                done = complete(stream.take())
                tell(done)
                found |= {completion.rid: completion for completion in done}
        return [found[request.rid] for request in requests]

    def revive(self) -> None:
        """Start again what has died or gone silent. Which weights it gets is the business of the run that uses it.

        Raises:
            RolloutError: a server did not come back, or restarts are used up.
        """
        self.run(self._revive())

    async def _revive(self) -> None:
        watched = [server for server in self.servers if server.is_serving]
        respond = await asyncio.gather(*(server.responds() for server in watched))
        for server, responds in zip(watched, respond, strict=True):
            if not responds:
                cause = ServerLost(f"{server.client.url} has ended or is silent")
                self.recovery.fence(server, cause, self.recovery.restart(server, cause))
        self.recovery.check()

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
        self._stage(weights, before, produce)()

    def stage_weights(self, weights: Weights, fill: Callable[[], None]) -> Callable[[], None]:
        """Prepare to move every server to other weights, which `fill` puts where those before them have been.

        Servers go on meanwhile with what they have; one that comes back waits for the new weights.

        Args:
            fill: runs in this thread when no server reads the old weights any longer.

        Returns:
            What moves them, in any thread; it must be called. Raises as `update_weights`.
        """
        return self._stage(weights, fill)

    def _stage(
        self, weights: Weights, fill: Callable[[], None], produce: Callable[[], None] = lambda: None
    ) -> Callable[[], None]:
        self.run(self.recovery.loading.acquire())
        try:
            fill()
        except BaseException as error:
            self._fail(_not_whole(weights, error))
            self.loop.call_soon_threadsafe(self.recovery.loading.release)
            raise
        return partial(self._move, weights, produce)

    def _move(self, weights: Weights, produce: Callable[[], None]) -> None:
        """Move the servers to other weights, while `loading` is held for them, and let it go."""
        self.recovery.weights = weights
        self.versions.announce(weights.version)
        update = asyncio.run_coroutine_threadsafe(self._update_all(), self.loop)
        try:
            produce()
        except BaseException as error:
            self._fail(_not_whole(weights, error))
            update.cancel()
            raise
        try:
            update.result()
        except Exception as error:
            self._fail(RolloutError(f"weights {weights.version!r} did not reach every server: {error}"))
            raise

    def _fail(self, error: RolloutError) -> None:
        """Requests that wait for a server, in whatever thread, end with this error."""
        self.loop.call_soon_threadsafe(self.recovery.fail, error)

    async def _update_all(self) -> None:
        """Together; if that fails, each by itself, and none serves before it has the weights whole."""
        ready = [server for server in self.servers if not server.is_recovering]
        try:
            if ready:
                keeps_cache, timeout_s = self.versions.keeps_cache, self.section.update_timeout_s
                await load(ready, self.recovery.weights, timeout_s, keeps_cache=keeps_cache)
            for server in ready:
                if server.state is State.LOADING:  # and was not lost meanwhile with a request that waited in it
                    server.become(State.SERVING)
        except (ServerLost, RequestRefused) as error:
            for server in ready:
                self.recovery.fence(server, error)
        finally:
            self.recovery.loading.release()
        await self.recovery.recovered()
        self.versions.confirm()

    def num_ranks(self) -> list[int]:
        """Numbers of ranks, one for each server."""
        return self.run(self.recovery.of_all(lambda server: server.client.num_ranks()))

    def checksums(self) -> dict[str, list[dict[str, str]]]:
        """By server, its ranks' checksums of their parameters."""
        found = self.run(self.recovery.of_all(lambda server: server.client.checksums(self.section.update_timeout_s)))
        return dict(zip([server.client.url for server in self.servers], found, strict=True))

    def take_stats(self) -> dict[str, Any]:
        """Since the last call; see `FleetStats`."""
        return self.stats.take(self.servers)

    @property
    def restarts(self) -> RestartBudget:
        """What the fleet may still lose."""
        return self.recovery.budget

    def take_timelines(self, wall_time: Callable[[float], float]) -> list[dict[str, Any]]:
        """What each server did since the last call; see `Timeline.take`."""
        return [
            {"number": server.number, "url": server.client.url, **server.timeline.take(wall_time)}
            for server in self.servers
        ]

    def forget_rates(self) -> None:
        """What was asked since the last step was no step's: its record begins here. Losses and events stay."""
        self.stats.forget_rates(self.servers)

    def close(self) -> None:
        """Stop the servers; harmless when called twice."""
        if self.loop.is_closed():
            return
        self.run(self._end_tasks())
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


def _not_whole(weights: Weights, error: BaseException) -> RolloutError:
    """Servers may hold a part of them, those before them are gone: there is no whole to bring a server to."""
    return RolloutError(f"weights {weights.version!r} were not gathered whole: {error!r}")
