"""One rollout server over HTTP: SGLang's native API, every call with a deadline and a checked reply."""

import asyncio
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.wire import UnusableReply, parse_generation
from egrc_mega.types import Completion, RolloutRequest

CONTROL_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 2.0
"""Shorter than any server's (uvicorn's: 5): a connection that the server has just closed must not be taken again."""


class ServerLost(RolloutError):
    """The server is gone, silent, or talks nonsense: another one may do better."""


class RequestRefused(RolloutError):
    """The server understood, and said no: so would every other."""


class ServerClient:
    """Talks to the server at `url`. Use inside one event loop; `session` may be shared between clients."""

    def __init__(self, session: aiohttp.ClientSession, url: str, request_timeout_s: float) -> None:
        self.session, self.url, self.request_timeout_s = session, url.rstrip("/"), request_timeout_s

    async def generate(self, request: RolloutRequest, prompt_ids: tuple[int, ...], stop_ids: list[int]) -> Completion:
        """One completion of `prompt_ids`, which starts with the request's prompt.

        Raises:
            RequestRefused: with the server's reason.
            ServerLost: unreachable, past the deadline, or an unusable reply.
        """
        sampling = request.sampling
        body = {
            "rid": request.rid,
            "input_ids": prompt_ids,
            "sampling_params": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": sampling.max_new_tokens,
                "stop_token_ids": stop_ids,
                "sampling_seed": request.seed,
            },
            "return_logprob": True,
        }
        raw = await self._call("POST", "/generate", body, self.request_timeout_s, f"request {request.rid}")
        try:
            return parse_generation(raw, request, self.url)
        except UnusableReply as error:
            raise ServerLost(str(error)) from error

    async def is_healthy(self) -> bool:
        """True when /health answers 200."""
        try:
            await self._call("GET", "/health", None, CONTROL_TIMEOUT_S, "health")
        except RolloutError:
            return False
        return True

    async def model_info(self) -> dict[str, Any]:
        """Which weights are served."""
        return dict(await self._call("GET", "/model_info", None, CONTROL_TIMEOUT_S, "model info"))

    async def server_info(self) -> dict[str, Any]:
        """Limits and counters."""
        return dict(await self._call("GET", "/server_info", None, CONTROL_TIMEOUT_S, "server info"))

    async def pause(self, mode: Literal["abort", "retract", "in_place"]) -> None:
        """Stop generating."""
        await self._call("POST", "/pause_generation", {"mode": mode}, CONTROL_TIMEOUT_S, f"pause ({mode})")

    async def resume(self) -> None:
        """Undo a pause."""
        await self._call("POST", "/continue_generation", {}, CONTROL_TIMEOUT_S, "continue")

    async def abort_all(self) -> None:
        """End every request."""
        await self._call("POST", "/abort_request", {"abort_all": True}, CONTROL_TIMEOUT_S, "abort")

    async def update_weights_from_disk(self, path: Path, version: str, timeout_s: float) -> None:
        """Load the weights of a folder and confirm that they are served.

        Raises:
            RequestRefused: with the server's reason.
            ServerLost: gone, or it still reports another version.
        """
        # a server resolves the path itself, and not from our working directory
        body = {"model_path": str(path.resolve()), "weight_version": version, "flush_cache": True}
        await self._call("POST", "/update_weights_from_disk", body, timeout_s, f"weights {version}")
        served = (await self.model_info()).get("weight_version")
        if served != version:
            raise ServerLost(f"{self.url} serves weights {served!r} after an update to {version!r}")

    async def _call(self, method: str, path: str, body: Any, timeout_s: float, what: str) -> Any:
        """Send, wait at most `timeout_s` in all, return the parsed body (None when it is empty)."""
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"} if data else None
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.session.request(method, self.url + path, data=data, headers=headers) as response,
            ):
                raw = await response.read()
        except TimeoutError as error:
            raise ServerLost(f"{self.url} did not answer {what} within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise ServerLost(f"{self.url} is gone while waiting for {what}: {error!r}") from error
        if response.status != 200:
            kind = RequestRefused if 400 <= response.status < 500 else ServerLost
            raise kind(f"{self.url} refused {what} with {response.status}: {raw[:500].decode(errors='replace')}")
        if not raw or response.content_type != "application/json":
            return None
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ServerLost(f"{self.url} answered {what} with something that is not JSON: {error}") from error


def new_session() -> aiohttp.ClientSession:
    """A session without a limit on connections: the servers queue, not we. Deadlines are set per call."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
