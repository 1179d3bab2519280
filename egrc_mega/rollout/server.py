"""One server of the fleet: where it is, which state it is in, and how it comes back after a loss."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.rollout.start.process import ServerProcess, first_version
from egrc_mega.rollout.state import State, follows
from egrc_mega.rollout.timeline import Timeline
from egrc_mega.rollout.weights import Weights, all_of

POLL_S = 0.5
MEMORY = ["kv_cache", "weights"]
"""What a colocated server frees, as SGLang names it."""


class Launch(Protocol):
    """Starts the process of one server, always the same one; on its own port, if none is given."""

    def __call__(self, *, weight_version: str, port: int | None = None) -> ServerProcess: ...


class Server:
    """`client` talks to it; without a `launch` somebody else started it. Only the fleet's event loop changes it.

    Args:
        changed: is set whenever the state of a server changes, for those who wait for one that serves.
    """

    def __init__(self, number: int, client: ServerClient, changed: asyncio.Event, launch: Launch | None = None) -> None:
        self.number, self.client, self.launch, self.changed = number, client, launch, changed
        self.process: ServerProcess | None = None
        self.state = State.STARTING
        self.timeline = Timeline(self.state)
        self.in_flight = 0
        """Requests that were sent and not answered yet."""
        self.num_waiting = 0
        """Those of them that are in its queue, by its own word."""
        self.freed: set[str] = set()
        """Parts of its GPU memory that it has not taken back yet; what was in them is gone."""
        self.has_whole_weights = True
        """False from the begin of a load to its success: what it then calls its weights is not to be believed."""
        self.recovery: asyncio.Task[None] | None = None
        """Brings it back; see `recovery.Recovery`."""

    def become(self, state: State) -> None:
        """Change the state, and wake up those who wait for a change.

        Raises:
            RuntimeError: a server in this state cannot get there.
        """
        self.state = follows(state, self.state)
        self.timeline.note_state(state)
        self.changed.set()

    @property
    def is_serving(self) -> bool:
        """Requests may go there."""
        return self.state is State.SERVING

    @property
    def is_recovering(self) -> bool:
        """It was lost, and somebody is bringing it back."""
        return self.recovery is not None and not self.recovery.done()

    @property
    def owes_replies(self) -> bool:
        """It has requests and nothing else to do."""
        return self.is_serving and self.in_flight > 0

    async def release_memory(self) -> None:
        """Free its GPU memory, unless it is free. It must be idle; the next load lets it go on."""
        if self.state is State.FREED:
            return
        # an idle scheduler may have its last batch to put away, and dies when it is asked to free memory then
        await self.client.pause("retract")
        self.become(State.PAUSED)
        await self.client.release_memory(MEMORY)
        self.freed = set(MEMORY)
        self.become(State.FREED)

    async def resume_memory(self, part: str) -> None:
        """Take a part of its memory again, if it is free."""
        if part in self.freed:
            await self.client.resume_memory([part])
            self.freed.remove(part)

    def process_lives(self) -> bool:
        """Its process has not ended; of a process that is not ours nothing is known, so True."""
        return self.process is None or self.process.process.poll() is None

    async def responds(self) -> bool:
        """It lives, and says something; also while it is paused, which SGLang's /health calls ill."""
        try:
            return self.process_lives() and bool(await self.client.model_info())
        except (ServerLost, RequestRefused):
            return False

    async def is_healthy(self) -> bool:
        """It lives, and says that it is healthy."""
        return self.process_lives() and await self.client.is_healthy()

    async def resumes(self) -> bool:
        """It generates, also when a run that was killed has left it paused.

        SGLang's /health cannot tell: it waits for a token for 20 s and then calls a paused server ill, but well if any
        other reply happens to leave the server meanwhile. So every server is told to go on before it is asked; whoever
        may not say so, for want of the key for it, may still generate.
        """
        with contextlib.suppress(RolloutError):
            await self.client.resume()
        return await self.client.is_healthy()

    async def serves(self, version: str) -> bool:
        """It is healthy, and has these weights, whole and in its memory."""
        if self.freed or not self.has_whole_weights or not await self.is_healthy():
            return False
        try:
            return (await self.client.model_info()).get("weight_version") == version
        except (ServerLost, RequestRefused):
            return False

    def start(self, weight_version: str, port: int | None = None) -> None:
        """Start the process of a server that is ours; `wait_for_process` says where it is then."""
        assert self.launch is not None
        self.process = self.launch(weight_version=weight_version, port=port)

    async def wait_for_process(self, timeout_s: float) -> None:
        """Until the process that was started answers.

        Raises:
            RolloutError: it ended, or did not answer in time.
        """
        assert self.process is not None
        self.client.url = await self.process.ready(timeout_s)

    async def come_back(self, timeout_s: float) -> None:
        """Start it again, or wait for whoever started it to do so. It has the run's first weights then, or others.

        Raises:
            RolloutError: it is not back within `rollout.start_timeout_s`.
        """
        self.become(State.STARTING)
        self.freed = set()
        if self.process is None:
            await self._wait_for_return(timeout_s)
            return
        await asyncio.to_thread(self.process.stop)
        # where it was: others may know it by its address
        self.start(first_version(), port=int(self.client.url.rpartition(":")[2]))
        await self.wait_for_process(timeout_s)

    async def _wait_for_return(self, timeout_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        # more than a word from it: SGLang's HTTP process talks while its scheduler hangs
        while not await self.resumes():
            if asyncio.get_running_loop().time() > deadline:
                patience = f"rollout.start_timeout_s = {timeout_s:g} s"
                raise RolloutError(
                    f"rollout.urls: {self.client.url} did not come back within {patience}"
                ) from TimeoutError()
            await asyncio.sleep(POLL_S)

    def log_tail(self) -> str:
        """The end of its log, if it is ours, to stand after what happened to it."""
        return f": {self.process.log_tail()}" if self.process is not None else ""


async def load(servers: Sequence[Server], weights: Weights, timeout_s: float, *, keeps_cache: bool = False) -> None:
    """Move servers to other weights, together: requests in flight wait, and go on under them. They end LOADING.

    Args:
        keeps_cache: requests go on with what they have cached; else they compute it anew, under the new weights.

    Raises:
        RolloutError: see `Weights.load_into`.
    """
    clients = [server.client for server in servers]
    for server in servers:
        server.become(State.LOADING)
        server.has_whole_weights = False
    await all_of(client.pause("in_place" if keeps_cache else "retract") for client in clients)
    await all_of(server.resume_memory("weights") for server in servers)
    await weights.load_into(clients, timeout_s, keeps_cache=keeps_cache)
    await all_of(server.resume_memory("kv_cache") for server in servers)
    await all_of(client.resume() for client in clients)
    for server in servers:
        server.has_whole_weights = True
