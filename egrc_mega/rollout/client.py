"""One rollout server over HTTP: SGLang's native API, every call with a deadline and a checked reply."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson

from egrc_mega.errors import RolloutError
from egrc_mega.open_files import raise_limit
from egrc_mega.rollout.errors import RequestRefused, ServerBusy, ServerLost
from egrc_mega.rollout.keys import ADMIN_KEY_VARIABLE, KEY_VARIABLE, Keys
from egrc_mega.rollout.versions import Versions, with_purity
from egrc_mega.rollout.wire import MASK_TOKEN_BYTES, Usage, generation_body, parse_generation, read_generation
from egrc_mega.types import Completion, RolloutRequest

CONTROL_TIMEOUT_S = 30.0
BUSY = (408, 425, 429)
QUEUE_IS_FULL = b"queue is full"
"""With 503, SGLang's word for it (sglang 0.5.23, srt/managers/scheduler.py)."""
REPLY_BYTES = 64 * 2**20
"""No reply to a control call is longer: checksums of ten thousand parameters are 1 MB."""
GENERATION_BYTES, TOKEN_BYTES = 2**20, 512
"""A completion is at most so long, and so much for each of its tokens: an id, a log-prob, a text (about 60 bytes)."""
KEEP_ALIVE_S = 2.0
"""Shorter than any server's (uvicorn's: 5): a connection that the server has just closed must not be taken again."""


class ServerClient:
    """Talks to the server at `url`. Use inside one event loop; `session` may be shared between clients."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        request_timeout_s: float,
        vocab_size: int | None = None,
        versions: Versions | None = None,
    ) -> None:
        self.session, self.url, self.request_timeout_s = session, url.rstrip("/"), request_timeout_s
        self.vocab_size = vocab_size
        """Of the model, when it is known: a reply may have no other ids."""
        self.versions = versions or Versions()
        """What the fleet's servers were given."""
        self.keys = Keys.from_environment()
        self.usage = Usage(0, 0, 0)
        """Of all replies so far."""
        self.replied_at = 0.0
        """When the last completion came, by the event loop's clock."""
        self._waits: set[asyncio.Timeout] = set()
        """For completions; without an end of their own."""

    async def generate(self, request: RolloutRequest) -> Completion:
        """One completion of the request's prompt and forced tokens, as far as the server samples it.

        Raises:
            RequestRefused: with the server's reason.
            ServerLost: unreachable, silent, past the deadline, or an unusable reply.
            ServerBusy: it may be asked again.
        """
        cache_key, what = self.versions.cache_key(), f"request {request.rid}"
        body = generation_body(request) | ({} if cache_key is None else {"extra_key": cache_key})
        token_bytes = TOKEN_BYTES + MASK_TOKEN_BYTES * (request.sampling.top_k or 0)
        limit = GENERATION_BYTES + token_bytes * request.sampling.max_new_tokens
        call = self._call("POST", "/generate", body, self.request_timeout_s, what, read_generation, limit)
        reply = await self._wait_for(call, request.rid)
        self.replied_at = asyncio.get_running_loop().time()
        completion, usage = parse_generation(reply, request, self.url, self.vocab_size)
        self.usage += usage
        return with_purity(completion, cache_key)

    async def _wait_for(self, reply: Coroutine[Any, Any, Any], rid: str) -> Any:
        """A reply, unless `hang_up` is called meanwhile."""
        wait = asyncio.timeout(None)
        try:
            async with wait:
                self._waits.add(wait)
                return await reply
        except TimeoutError as error:
            raise ServerLost(f"{self.url} fell silent while it had request {rid}") from error
        finally:
            self._waits.discard(wait)

    def hang_up(self) -> None:
        """Wait no longer for any completion: each ends in a `ServerLost`."""
        while self._waits:
            self._waits.pop().reschedule(0)

    async def is_healthy(self) -> bool:
        """True when /health answers 200."""
        try:
            await self._call("GET", "/health", None, CONTROL_TIMEOUT_S, "health")
        except RolloutError:
            return False
        return True

    async def model_info(self) -> dict[str, Any]:
        """Which weights are served."""
        return await self._ask("/model_info", "model info")

    async def server_info(self) -> dict[str, Any]:
        """The server's limits and counters."""
        return await self._ask("/server_info", "server info")

    async def num_waiting(self) -> int | None:
        """Requests in its queue; None when it does not say."""
        try:
            reply = await self._call("GET", "/v1/loads", None, CONTROL_TIMEOUT_S, "loads")
            return sum(int(load["num_waiting_reqs"]) for load in reply["loads"])
        except (RolloutError, TypeError, KeyError, ValueError):
            return None

    async def pause(self, mode: Literal["abort", "retract", "in_place"]) -> None:
        """Stop generating; `mode` says what becomes of running requests."""
        await self._call("POST", "/pause_generation", {"mode": mode}, CONTROL_TIMEOUT_S, f"pause ({mode})")

    async def resume(self) -> None:
        """Generate again after a pause."""
        await self._call("POST", "/continue_generation", {}, CONTROL_TIMEOUT_S, "continue")

    async def abort_all(self) -> None:
        """End every request of the server."""
        await self._call("POST", "/abort_request", {"abort_all": True}, CONTROL_TIMEOUT_S, "abort")

    async def update_weights_from_disk(
        self, path: Path, version: str, timeout_s: float, *, flush_cache: bool = True
    ) -> None:
        """Load the weights of a folder and confirm that they are served.

        Args:
            flush_cache: forget what was cached under the weights before; refused while requests are paused in place.

        Raises:
            RequestRefused: with the server's reason.
            ServerLost: gone, or it still reports another version.
        """
        # a server resolves the path itself, and not from our working directory
        body = {"model_path": str(path.resolve()), "weight_version": version, "flush_cache": flush_cache}
        await self._call("POST", "/update_weights_from_disk", body, timeout_s, f"weights {version}")
        await self.confirm(version)

    async def num_ranks(self) -> int:
        """Processes that share its model: its part of a weight-update group."""
        size = (await self.server_info()).get("tp_size", 1)
        if not isinstance(size, int) or size < 1:
            raise ServerLost(f"{self.url} answered server info with tp_size {size!r:.100}")
        return size

    async def init_weights_update_group(
        self, address: str, port: int, rank_offset: int, world_size: int, name: str, backend: str, timeout_s: float
    ) -> None:
        """Join a process group whose rank 0 is ours; returns when all have joined."""
        body = {"master_address": address, "master_port": port, "rank_offset": rank_offset, "world_size": world_size}
        body |= {"group_name": name, "backend": backend}
        await self._update("/init_weights_update_group", body, timeout_s)

    async def destroy_weights_update_group(self, name: str) -> None:
        """Leave a process group that weights came by."""
        await self._update("/destroy_weights_update_group", {"group_name": name}, CONTROL_TIMEOUT_S)

    async def begin_weight_update(self) -> bool:
        """Open a session; one that an update has left open is closed first. False: the server knows no sessions."""
        try:
            await self._update("/begin_weight_update", {}, CONTROL_TIMEOUT_S)
        except RequestRefused as error:
            if error.status == 404:
                return False
            await self.end_weight_update()
            await self._update("/begin_weight_update", {}, CONTROL_TIMEOUT_S)
        return True

    async def end_weight_update(self) -> None:
        """Close the session that buckets need."""
        await self._update("/end_weight_update", {}, CONTROL_TIMEOUT_S)

    async def update_weights_from_distributed(self, bucket: dict[str, Any], timeout_s: float) -> None:
        """Receive what the group's rank 0 broadcasts."""
        await self._update("/update_weights_from_distributed", bucket, timeout_s)

    async def update_weights_from_tensor(self, bucket: dict[str, Any], timeout_s: float) -> None:
        """Take tensors by value or by handle."""
        await self._update("/update_weights_from_tensor", bucket, timeout_s)

    async def checksums(self, timeout_s: float) -> list[dict[str, str]]:
        """For each rank of the server, its parameters' checksums by the server's own names."""
        body = {"action": "checksum"}
        reply = await self._call("POST", "/weights_checker", body, timeout_s, "checksums")
        try:
            return [dict(rank["checksums"]) for rank in reply["ranks"]]
        except (TypeError, KeyError) as error:
            raise ServerLost(f"{self.url} answered checksums with something else: {reply!r:.200}") from error

    async def release_memory(self, tags: list[str]) -> None:
        """Free GPU memory: `weights`, `kv_cache`, `cuda_graph`."""
        await self._call("POST", "/release_memory_occupation", {"tags": tags}, CONTROL_TIMEOUT_S, "release memory")

    async def resume_memory(self, tags: list[str]) -> None:
        """Take GPU memory again; weights must be sent anew."""
        await self._call("POST", "/resume_memory_occupation", {"tags": tags}, CONTROL_TIMEOUT_S, "resume memory")

    async def confirm(self, version: str) -> None:
        """Raises ServerLost unless the server says that it serves `version`."""
        served = (await self.model_info()).get("weight_version")
        if served != version:
            raise ServerLost(f"{self.url} serves weights {served!r} after an update to {version!r}")

    async def _ask(self, path: str, what: str) -> dict[str, Any]:
        """What it says of itself."""
        reply = await self._call("GET", path, None, CONTROL_TIMEOUT_S, what)
        if not isinstance(reply, dict):
            raise ServerLost(f"{self.url} answered {what} with something else: {reply!r:.200}")
        return reply

    async def _update(self, path: str, body: dict[str, Any], timeout_s: float) -> None:
        """A step of a weight update: these answer with `success` and a message."""
        reply = await self._call("POST", path, body, timeout_s, path.strip("/").replace("_", " "))
        if not (isinstance(reply, dict) and reply.get("success")):
            raise ServerLost(f"{self.url} answered {path} with {reply!r:.300}")

    async def _call(
        self,
        method: str,
        path: str,
        body: Any,
        timeout_s: float,
        what: str,
        read: Callable[[bytes], Any] = orjson.loads,
        max_bytes: int | None = None,
    ) -> Any:
        """Send, wait at most `timeout_s` in all, return what `read` makes of the body (None when it is empty)."""
        data = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = self.keys.headers(path) | ({"Content-Type": "application/json"} if data else {})
        # a compressed reply may unpack to any size
        headers["Accept-Encoding"] = "identity"
        try:
            async with (
                asyncio.timeout(timeout_s),
                # nobody has checked where a redirection leads
                self.session.request(
                    method, self.url + path, data=data, headers=headers, allow_redirects=False
                ) as response,
            ):
                raw = await _read_at_most(response, max_bytes or REPLY_BYTES, f"{self.url} answered {what}")
        except TimeoutError as error:
            raise ServerLost(f"{self.url} did not answer {what} within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ServerLost(f"{self.url} is gone while waiting for {what}: {_cause(error)}") from error
        if response.status != 200:
            refusal = f"{self.url} refused {what} with {response.status}: {raw[:500].decode(errors='replace')}"
            if response.status in (401, 403):
                raise RolloutError(f"{refusal}; give the servers' keys in {KEY_VARIABLE} and {ADMIN_KEY_VARIABLE}")
            if response.status in BUSY or (response.status == 503 and QUEUE_IS_FULL in raw):
                raise ServerBusy(refusal)
            if 400 <= response.status < 500:
                raise RequestRefused(refusal, response.status)
            raise ServerLost(refusal)
        if not raw or response.content_type != "application/json":
            return None
        try:
            return read(raw)
        except orjson.JSONDecodeError as error:
            raise ServerLost(f"{self.url} answered {what} with something that is not JSON: {error}") from error


def _cause(error: aiohttp.ClientError) -> str:
    """Why a connection has failed, in the system's words where they are its."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return os.strerror(number) if number > 0 else str(error.os_error)
    return str(error) or type(error).__name__


async def _read_at_most(response: aiohttp.ClientResponse, max_bytes: int, answer: str) -> bytes:
    """The body as it was sent.

    Raises:
        ServerLost: it is compressed, which nobody has asked for, or longer than `max_bytes`; nothing more is read then.
    """
    if encoding := response.headers.get("Content-Encoding"):
        raise ServerLost(f"{answer} in the encoding {encoding!r:.40}, which was not asked for")
    chunks, num_bytes = [], 0
    async for chunk in response.content.iter_any():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise ServerLost(f"{answer} with more than {max_bytes} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def open_session() -> aiohttp.ClientSession:
    """A session of the running loop, without a limit on connections: the servers queue, not we.

    Deadlines are set per call.
    """
    # a connection is a file: the usual soft limit of 1024 is fewer than a batch has requests
    raise_limit()
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=KEEP_ALIVE_S)
    no_end = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(connector=connector, timeout=no_end, auto_decompress=False)
