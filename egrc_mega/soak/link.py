"""A link between a run and one of its servers: passes everything on, until it is told to lose or to spoil something."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from egrc_mega.soak.schedule import GARBAGE

START_TIMEOUT_S = 30.0
COMPLETION = "/generate"


def _json(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def spoil(raw: bytes) -> bytes:
        reply = json.loads(raw)
        change(reply)
        return json.dumps(reply).encode()

    return spoil


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda raw: b"",
    "half of it": lambda raw: raw[: len(raw) // 2],
    "a page": lambda raw: b"<html>Welcome</html>",
    "an error inside 200": lambda raw: b'{"error": {"message": "out of memory"}}',
    "status 500": lambda raw: b"Internal Server Error",
    "another request": _json(lambda reply: reply["meta_info"].update(id="of-somebody-else")),
    "a token too few": _json(lambda reply: reply["output_ids"].pop()),
    "log-probs that are no numbers": _json(
        lambda reply: [entry.__setitem__(0, float("nan")) for entry in reply["meta_info"]["output_token_logprobs"]]
    ),
}
assert tuple(SPOILERS) == GARBAGE


@dataclass
class Strike:
    """A fault of a link, and how often it has struck a completion."""

    kind: str = ""
    num_struck: int = 0


class Link:
    """A proxy before one server, in a thread of its own. Use as a context manager; `url` says where it is."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._garbage: list[Strike] = []
        """For the next completions, one each."""
        self._cuts: list[Strike] = []
        """For the next requests, one each: they lose their connection."""
        self._open: list[web.Request] = []
        """Requests under way."""

    def spoil(self, kind: str) -> Strike:
        """The next completion comes back as garbage of this kind."""
        strike = Strike(kind)
        self._loop.call_soon_threadsafe(self._garbage.append, strike)
        return strike

    def cut(self, num_requests: int) -> Strike:
        """Requests under way lose their connection, and so do so many of the next ones."""
        strike = Strike()

        def hang_up() -> None:
            self._cuts += [strike] * num_requests
            for request in self._open:
                strike.num_struck += request.path == COMPLETION
                _hang_up(request)

        self._loop.call_soon_threadsafe(hang_up)
        return strike

    def mend(self) -> None:
        """Forget what has not struck yet."""
        self._loop.call_soon_threadsafe(self._garbage.clear)
        self._loop.call_soon_threadsafe(self._cuts.clear)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if self._cuts:
            self._cuts.pop(0).num_struck += request.path == COMPLETION
            return _hang_up(request)
        self._open.append(request)
        try:
            return await self._answer(request)
        except aiohttp.ClientError:  # the server is gone, and so is the link to it
            return _hang_up(request)
        finally:
            # a request equals any other
            self._open = [other for other in self._open if other is not request]

    async def _answer(self, request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in ("Content-Type", "Authorization") if name in request.headers}
        data = await request.read()
        url = f"{self.upstream}{request.path_qs}"
        async with self._session.request(request.method, url, data=data or None, headers=headers) as reply:
            raw, status = await reply.read(), reply.status
        if request.path == COMPLETION and status == 200 and self._garbage:
            strike = self._garbage.pop(0)
            strike.num_struck += 1
            raw, status = SPOILERS[strike.kind](raw), 500 if strike.kind == "status 500" else 200
        return web.Response(body=raw, status=status, content_type=reply.content_type)

    async def _serve(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=None)
        )
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(START_TIMEOUT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(START_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _hang_up(request: web.Request) -> web.Response:
    """Lose the connection of a request; the answer, which nobody gets, for its handler to return."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)
