"""A scripted rollout server: answers right, or misbehaves in the way it is told for as many requests as it is told."""

import asyncio
import gzip
import threading
from collections.abc import Callable
from typing import Any, Self

import aiohttp
from aiohttp import web

Reply = dict[str, Any]


def right_reply(body: dict[str, Any], version: str, token: int = 7) -> Reply:
    """One token as often as asked for, with log-prob -1."""
    count = body["sampling_params"]["max_new_tokens"]
    return {
        "output_ids": [token] * count,
        "meta_info": {
            "id": body["rid"],
            "finish_reason": {"type": "length", "length": count},
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": count,
            "output_token_logprobs_length": count,
            "weight_version": version,
            "weight_versions": [{"version": version, "start": 0, "end": count}],
            "output_token_logprobs": [[-1.0, token, None]] * count,
            "output_token_sampling_mask": [[token, 1]] * count,
            "output_token_sampling_logprobs": [-0.5] * count,
        },
    }


def _change(**changes: Any) -> Callable[[Reply], Any]:
    return lambda reply: reply | {"meta_info": reply["meta_info"] | changes}


class CutOff(web.StreamResponse):
    """Ends in the middle of its body; with a length, or in chunks."""

    def __init__(self, **headers: str) -> None:
        super().__init__(headers={"Content-Type": "application/json"} | headers)

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send a part, and hang up."""
        await super().prepare(request)
        await self.write(b'{"output_ids": [7, 7')
        assert request.transport is not None
        request.transport.close()


class Endless(web.StreamResponse):
    """Sends as long as somebody reads."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send for as long as somebody reads."""
        await super().prepare(request)
        while True:
            await self.write(b"[" * 2**16)


def bomb(_reply: Reply) -> web.Response:
    """A thousand times as long once it is unpacked."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=gzip.compress(b" " * 2**24), headers=headers)


GARBAGE: dict[str, Callable[[Reply], Any]] = {
    "not JSON": lambda reply: web.Response(body=b"{", content_type="application/json"),
    "a body shorter than its length": lambda reply: CutOff(**{"Content-Length": "400"}),
    "a chunk and no more": lambda reply: CutOff(),
    "a body without end": lambda reply: Endless(headers={"Content-Type": "application/json"}),
    "a bomb": bomb,
    "a page": lambda reply: web.Response(text="<html>Welcome</html>", content_type="text/html"),
    "an id beyond the vocabulary": lambda reply: right_reply(
        {"rid": reply["meta_info"]["id"], "input_ids": [], "sampling_params": {"max_new_tokens": 4}},
        reply["meta_info"]["weight_version"],
        10**6,
    ),
    "a token too many": lambda reply: right_reply(
        {"rid": reply["meta_info"]["id"], "input_ids": [], "sampling_params": {"max_new_tokens": 5}},
        reply["meta_info"]["weight_version"],
    ),
    "no meta_info": lambda reply: {"output_ids": reply["output_ids"]},
    "a list": lambda reply: [reply],
    "an empty list": lambda reply: [],
    "a redirection": lambda reply: web.Response(status=307, headers={"Location": "/generate"}),
    "an error inside 200": lambda reply: {"error": {"message": "out of memory"}},
    "nothing": lambda reply: {},
    "status 500": lambda reply: web.Response(status=500, text="Internal Server Error"),
    "another request": _change(id="somebody-else"),
    "a token too few": lambda reply: reply | {"output_ids": reply["output_ids"][1:]},
    "NaN": _change(output_token_logprobs=[[float("nan"), 7, None]] * 4),
    "NaN as a word": _change(output_token_logprobs=[["NaN", 7, None]] * 4),
    "minus infinity": _change(output_token_logprobs=[["-inf", 7, None]] * 4),
    "a log-prob above zero": _change(output_token_logprobs=[[0.5, 7, None]] * 4),
    "log-probs of other tokens": _change(output_token_logprobs=[[-1.0, 8, None]] * 4),
    "spans with a hole": _change(weight_versions=[{"version": "v0", "start": 0, "end": 2}]),
    "an unknown end": _change(finish_reason={"type": "vanished"}),
    "a text for an id": lambda reply: reply | {"output_ids": ["7", 7, 7, 7]},
}
"""What it does wrong -> the reply in its place. Requests are for four tokens."""


def _result(problem: str = "") -> web.Response:
    """Of a weight call."""
    return web.json_response({"success": not problem, "message": problem}, status=400 if problem else 200)


NEEDS_MEMORY = {"/generate": {"weights", "kv_cache"}, "/update_weights_from_disk": {"weights"}}


class FakeServer:
    """Use as a context manager; `url` says where. Its counters are for the test to read.

    Args:
        upstream: URL of a server that answers whatever is not scripted; None: it makes its answers up.
    """

    def __init__(self, version: str = "v0", upstream: str | None = None) -> None:
        self.version, self.upstream = version, upstream
        self.faults: list[Callable[[Reply], Any]] = []
        """Taken from the front, one a request."""
        self.is_ill = False
        """/health answers 503."""
        self.is_missing = False
        """Everything is answered with 404, as by a proxy that has lost what is behind it."""
        self.is_deaf = False
        """It takes aborts, and does nothing."""
        self.has_session = False
        """Between begin and end of a weight update."""
        self.may_generate = asyncio.Event()
        self.may_generate.set()
        """Not paused."""
        self.hangs = 0
        """Requests that are never answered."""
        self.holds: Callable[[Reply], bool] = lambda body: False
        """Requests (by their bodies) that are answered with two tokens once they are aborted, and not before..."""
        self.hold_s: float | None = None
        """... or whole, after so long."""
        self.is_right: Callable[[Reply], bool] = lambda body: True
        """Requests that are answered with token 7; the others get token 8."""
        self.waits: Callable[[str, bytes], bool] = lambda path, data: False
        """Calls, by path and body, that it passes on to its upstream once this says no more."""
        self.rewrite_request: Callable[[str, bytes], bytes] = lambda path, data: data
        """What it makes of a body before it passes it on to its upstream..."""
        self.rewrite_reply: Callable[[str, bytes], bytes] = lambda path, data: data
        """... and of what comes back."""
        self.delay_s = 0.0
        self.info: Any = None
        """What /model_info and /server_info answer instead of the truth."""
        self.bodies: list[Reply] = []
        self.calls: list[str] = []
        """Control calls, in order."""
        self.pause_modes: list[str] = []
        """Of the pauses, in order."""
        self.fails: list[str] = []
        """Control calls, as `calls` names them, that fail; each once."""
        self.freed: set[str] = set()
        """Parts of its memory; with an upstream, what needs them fails."""
        self.confirms_updates = True
        self.refused_buckets: list[int] = []
        """Numbers of the buckets, over all updates, that it fails to load."""
        self.num_buckets = 0
        self.updates: list[Reply] = []
        """Bodies of the calls that brought weights: folders and buckets."""
        self.versions: list[str] = []
        """All that it ever had, in order."""
        self.num_requests = 0
        self.num_updates = 0
        self.num_aborts = 0
        self.num_asked = 0
        """Times that it was asked about itself."""
        self._aborted = asyncio.Event()

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self.num_requests += 1
        body = await request.json()
        self.bodies.append(body)
        await self.may_generate.wait()
        await asyncio.sleep(self.delay_s)
        if self.holds(body) and await self._is_aborted():
            partial = body | {"sampling_params": body["sampling_params"] | {"max_new_tokens": 2}}
            begun = right_reply(partial, self.version)
            begun["meta_info"]["finish_reason"] = {"type": "abort", "message": "Aborted"}
            return web.json_response(begun)
        if self.hangs:
            self.hangs -= 1
            await asyncio.sleep(3600)
        reply: Any = self.reply(body)
        if self.faults:
            reply = self.faults.pop(0)(reply)
        return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)

    async def _is_aborted(self) -> bool:
        try:
            return await asyncio.wait_for(self._aborted.wait(), self.hold_s)
        except TimeoutError:
            return False

    def reply(self, body: Reply) -> Reply:
        """What it answers when nothing is scripted."""
        return right_reply(body, self.version, 7 if self.is_right(body) else 8)

    async def _update(self, request: web.Request) -> web.Response:
        self.num_updates += 1
        self.calls.append(request.path)
        body = await request.json()
        self.updates.append(body)
        if self.confirms_updates:
            self.version = body["weight_version"]
        return web.json_response({"success": True, "message": "", "num_paused_requests": 0})

    async def _bucket(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        body = await request.json()
        self.updates.append(body)
        if not self.has_session:
            return _result("a bucket must come between begin_weight_update() and end_weight_update()")
        self.num_buckets += 1
        if self.num_buckets in self.refused_buckets:
            return _result("out of memory")
        self.version = body["weight_version"]
        self.versions.append(self.version)
        return _result()

    async def _session(self, request: web.Request) -> web.Response:
        self.calls.append(request.path)
        begins = request.path == "/begin_weight_update"
        if begins == self.has_session:
            return _result(f"{'a weight-update session is already' if begins else 'no weight-update session is'} open")
        self.has_session = begins
        return _result()

    async def _abort(self, _request: web.Request) -> web.Response:
        self.num_aborts += 1
        if not self.is_deaf:
            self._aborted.set()
            self._aborted = asyncio.Event()
        return web.Response()

    async def _info(self, _request: web.Request) -> web.Response:
        self.num_asked += 1
        truth = {"weight_version": self.version, "internal_states": [{"num_tokens": 0}]}
        return web.json_response(truth if self.info is None else self.info)

    async def _health(self, _request: web.Request) -> web.Response:
        # SGLang's generates a token
        return web.Response(status=200 if self.may_generate.is_set() and not self.is_ill else 503)

    async def _fine(self, request: web.Request) -> web.Response:
        body = await request.json() if request.body_exists else {}
        call = " ".join([request.path, *body.get("tags", [])])
        self.calls.append(call)
        if call in self.fails:
            self.fails.remove(call)
            return web.Response(status=500)
        tags = set(body.get("tags", []))
        self.freed = self.freed | tags if "release" in call else self.freed - tags
        if request.path == "/pause_generation":
            self.pause_modes.append(body["mode"])
            self.may_generate.clear()
        if request.path == "/continue_generation":
            self.may_generate.set()
        verb = "paused" if request.path == "/pause_generation" else "continued"
        return web.json_response({"message": f"Generation {verb} successfully.", "status": "ok"})

    async def _no_group(self, _request: web.Request) -> web.Response:
        return _result("The group to be destroyed does not exist.")

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/generate" and self.faults:
            return await self._generate(request)
        if request.path.endswith("_memory_occupation"):
            return await self._fine(request)
        if NEEDS_MEMORY.get(request.path, set()) & self.freed:
            return web.Response(status=500, text=f"freed: {sorted(self.freed)}")
        raw = await request.read()
        while self.waits(request.path, raw):
            await asyncio.sleep(0.01)
        data = self.rewrite_request(request.path, raw)
        headers = {"Content-Type": request.content_type}
        url = f"{self.upstream}{request.path_qs}"
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, data=data or None, headers=headers) as reply,
        ):
            raw = self.rewrite_reply(request.path, await reply.read())
            return web.Response(body=raw, status=reply.status, content_type=reply.content_type)

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_post("/generate", self._generate)
        app.router.add_post("/update_weights_from_disk", self._update)
        app.router.add_get("/model_info", self._info)
        app.router.add_get("/server_info", self._info)
        app.router.add_get("/health", self._health)
        for path in ("/update_weights_from_tensor", "/update_weights_from_distributed"):
            app.router.add_post(path, self._bucket)
        app.router.add_post("/destroy_weights_update_group", self._no_group)
        for path in ("/begin_weight_update", "/end_weight_update"):
            app.router.add_post(path, self._session)
        app.router.add_post("/abort_request", self._abort)
        for path in (
            "/pause_generation",
            "/continue_generation",
            "/release_memory_occupation",
            "/resume_memory_occupation",
        ):
            app.router.add_post(path, self._fine)

    @web.middleware
    async def _miss(self, request: web.Request, handler: Any) -> Any:
        return web.json_response({"detail": "Not Found"}, status=404) if self.is_missing else await handler(request)

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._miss])
        if self.upstream:
            app.router.add_route("*", "/{path:.*}", self._forward)
        else:
            self._add_routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
