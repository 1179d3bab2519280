"""All rollout servers of a run behind a few blocking calls; an event loop in a thread of its own does the talking."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from egrc_mega.config.schema import RolloutSection
from egrc_mega.errors import RolloutError
from egrc_mega.faults import armed
from egrc_mega.rollout import segments
from egrc_mega.rollout.client import ServerClient, new_session
from egrc_mega.rollout.process import ServerProcess
from egrc_mega.rollout.segments import Environment
from egrc_mega.types import Completion, RolloutRequest

T = TypeVar("T")


class Fleet:
    """Use as a context manager: leaving it stops the servers that it started."""

    def __init__(self, section: RolloutSection) -> None:
        self.section = section
        self.processes: list[ServerProcess] = []
        self.clients: list[ServerClient] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, section: RolloutSection, model_path: Path, weight_version: str, log_dir: Path) -> Self:
        """Start embedded servers, or attach to those that run already.

        Raises:
            RolloutError: a server does not come up, a port is in use, a URL does not answer.
        """
        fleet = cls(section)
        try:
            fleet._start(model_path, weight_version, log_dir)
        except BaseException:
            fleet.close()
            raise
        return fleet

    def _start(self, model_path: Path, weight_version: str, log_dir: Path) -> None:
        section = self.section
        self._session = self._run(_async_call(new_session))
        urls = list(section.urls)
        if section.server == "embedded":
            for i in range(section.num_servers):
                process = ServerProcess(
                    model_path,
                    port=section.port + i if section.port else 0,
                    weight_version=weight_version,
                    max_batch_size=section.max_batch_size,
                    log=log_dir / f"server_{i}.log",
                )
                self.processes.append(process)
            urls = [process.wait_until_ready(section.start_timeout_s) for process in self.processes]
        self.clients = [ServerClient(self._session, url, section.request_timeout_s) for url in urls]
        for client in self.clients:
            if not self._run(client.is_healthy()):
                raise RolloutError(f"rollout.urls: {client.url} does not answer /health; start the server first")

    def generate(self, requests: Sequence[RolloutRequest], environment: Environment | None = None) -> list[Completion]:
        """Completions in the order of the requests; the samples of a prompt go to one server.

        Raises:
            RolloutError: a server is gone or answers garbage; what was in flight is aborted.
        """
        return self._run(self._generate(requests, environment))

    async def _generate(self, requests: Sequence[RolloutRequest], environment: Environment | None) -> list[Completion]:
        place_of: dict[str, int] = {}
        for request in requests:
            place_of.setdefault(request.prompt.id, len(place_of))
        order = list(range(len(requests)))
        if armed("rollout.shuffle_requests"):
            random.shuffle(order)
        results: dict[int, Completion] = {}

        async def one(i: int) -> None:
            client = self.clients[place_of[requests[i].prompt.id] % len(self.clients)]
            results[i] = await segments.generate(client, requests[i], environment)

        try:
            async with asyncio.TaskGroup() as group:
                for i in order:
                    group.create_task(one(i))
        except ExceptionGroup as errors:
            raise self._explained(errors.exceptions[0]) from errors
        return [results[i] for i in range(len(requests))]

    def update_weights(self, path: Path, version: str) -> None:
        """Move every server to the weights in `path`; returns when all of them confirm `version`.

        Raises:
            RolloutError: one of them refused or still reports another version.
        """

        async def update(client: ServerClient) -> None:
            await client.pause("retract")
            await client.update_weights_from_disk(path, version, self.section.update_timeout_s)
            await client.resume()

        async def update_all() -> None:
            await asyncio.gather(*(update(client) for client in self.clients))

        self._run(update_all())

    def close(self) -> None:
        """Stop the servers; harmless when called twice."""
        if self._loop.is_closed():
            return
        if hasattr(self, "_session"):
            self._run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for process in self.processes:
            process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run in the loop's thread; every coroutine here has its own deadlines."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _explained(self, error: BaseException) -> BaseException:
        """Say so when the cause is a server process that has ended."""
        for process in self.processes:
            code = process.process.poll()
            if code is not None:
                return RolloutError(f"a rollout server ended with exit code {code}: {process.log_tail()}")
        return error


async def _async_call(function: Any) -> Any:
    return function()
