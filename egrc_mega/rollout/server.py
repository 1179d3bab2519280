"""One server of the fleet: where it is, whether it may be asked, and how it comes back after a loss."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from egrc_mega.config.schema import RolloutSection
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import RequestRefused, ServerClient, ServerLost
from egrc_mega.rollout.process import ServerProcess, first_version, start_server
from egrc_mega.rollout.weights import Weights, all_of

BACKOFF_S = 0.5
"""Before the first restart; doubled for each that follows."""
LONGEST_BACKOFF_S = 30.0
POLL_S = 0.5
MEMORY = ["kv_cache", "weights"]
"""What a colocated server frees, as SGLang names it."""


class Server:
    """`client` talks to it; without a `process` somebody else started it."""

    def __init__(self, number: int, client: ServerClient, process: ServerProcess | None) -> None:
        self.number, self.client, self.process = number, client, process
        self.is_serving = True
        self.in_flight = 0
        self.num_waiting = 0
        """Of those, in its queue, by its own word."""
        self.released: set[str] = set()
        """Parts of its GPU memory that are free; what was in them is gone."""
        self.is_loading = False
        """From the begin of a load to its success: until then what it calls its weights is not to be believed."""
        self.recovery: asyncio.Task[None] | None = None

    @property
    def must_answer(self) -> bool:
        """It has requests and nothing else to do."""
        return self.is_serving and not self.is_loading and self.in_flight > 0

    async def release_memory(self) -> None:
        """Free its GPU memory, unless it is free. It must be idle; the next load lets it go on."""
        if self.released:
            return
        # an idle scheduler may have its last batch to put away, and dies when it is asked to free memory then
        await self.client.pause("retract")
        await self.client.release_memory(MEMORY)
        self.released = set(MEMORY)

    async def resume_memory(self, part: str) -> None:
        """Take a part of its memory again, if it is free."""
        if part in self.released:
            await self.client.resume_memory([part])
            self.released.remove(part)

    def is_alive(self) -> bool:
        """Its process, if it is ours, has not ended."""
        return self.process is None or self.process.process.poll() is None

    def log_tail(self) -> str:
        """The end of its log, if it is ours, to stand after what happened to it."""
        return f": {self.process.log_tail()}" if self.process is not None else ""

    async def is_there(self) -> bool:
        """It lives, and says something; also while it is paused, which SGLang's /health calls ill."""
        try:
            return self.is_alive() and bool(await self.client.model_info())
        except (ServerLost, RequestRefused):
            return False

    async def answers(self) -> bool:
        """It lives, and says that it is healthy."""
        return self.is_alive() and await self.client.is_healthy()

    async def can_be_used(self) -> bool:
        """It is healthy, also when a run that was killed has left it paused, which SGLang's /health calls ill."""
        if not await self.client.is_healthy():
            with contextlib.suppress(ServerLost, RequestRefused):
                await self.client.resume()
        return await self.client.is_healthy()

    async def is_well(self, version: str) -> bool:
        """It answers, and with these weights, which are whole and in its memory."""
        try:
            return (
                not self.released
                and not self.is_loading
                and await self.answers()
                and (await self.client.model_info()).get("weight_version") == version
            )
        except (ServerLost, RequestRefused):
            return False

    async def wait_until_back(self, section: RolloutSection, model_path: Path, log_dir: Path) -> None:
        """Start it again, or wait for whoever started it to do so. It has the run's first weights then, or others.

        Raises:
            RolloutError: it is not back within `rollout.start_timeout_s`.
        """
        self.released = set()
        if self.process is not None:
            old = self.process
            await asyncio.to_thread(old.stop)
            log = log_dir / f"server_{self.number}.log"
            # where it was: others may know it by its address
            port = int(self.client.url.rpartition(":")[2])
            self.process = start_server(
                section, model_path, number=self.number, weight_version=first_version(), log=log, port=port
            )
            self.client.url = await asyncio.to_thread(self.process.wait_until_ready, section.start_timeout_s)
            return
        deadline = asyncio.get_running_loop().time() + section.start_timeout_s
        # more than a word from it: SGLang's HTTP process talks while its scheduler hangs
        while not await self.can_be_used():
            if asyncio.get_running_loop().time() > deadline:
                raise RolloutError(
                    f"rollout.urls: {self.client.url} did not come back within rollout.start_timeout_s = "
                    f"{section.start_timeout_s:g} s"
                )
            await asyncio.sleep(POLL_S)


async def load(servers: Sequence[Server], weights: Weights, timeout_s: float) -> None:
    """Move servers to other weights, together: requests in flight wait, and go on under them.

    Raises:
        RolloutError: see `Weights.load_into`.
    """
    clients = [server.client for server in servers]
    for server in servers:
        server.is_loading = True
    await all_of(client.pause("retract") for client in clients)
    await all_of(server.resume_memory("weights") for server in servers)
    await weights.load_into(clients, timeout_s)
    await all_of(server.resume_memory("kv_cache") for server in servers)
    await all_of(client.resume() for client in clients)
    for server in servers:
        server.is_loading = False
