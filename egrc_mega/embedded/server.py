"""The HTTP face of the engine: SGLang's routes, request and reply shapes, and error bodies."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import ValidationError

from egrc_mega import __version__
from egrc_mega.embedded.batch import Request
from egrc_mega.embedded.connections import refuse_other_expectations
from egrc_mega.embedded.engine import Engine, WeightUpdateError
from egrc_mega.embedded.sampling import SamplingParams
from egrc_mega.embedded.weight_bodies import BucketBody, GroupBody, LeaveBody
from egrc_mega.embedded.weights import WeightReceiver
from egrc_mega.rollout.keys import Keys

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Body = TypeVar("Body", GroupBody, LeaveBody, BucketBody)
MAX_BODY_BYTES = 64 * 2**20
MAX_MASK = 4096
"""Ids of a sampling mask: SGLang's --sampling-mask-max-tokens."""
BODY_TIMEOUT_S = 60.0
"""From the head of a request to the end of its body: whoever sends slower is not one of ours."""


class EmbeddedServer:
    """Handlers around one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.started = time.monotonic()
        self.in_flight: set[str] = set()
        self.receiver = WeightReceiver(engine)

    def application(self) -> web.Application:
        """The aiohttp application with all routes."""
        middlewares = [_errors_as_sglang, _check_key(Keys.from_environment())]
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=middlewares)
        refuse_other_expectations(app)
        app.router.add_post("/generate", self.generate)
        app.router.add_get("/health", self.health)
        app.router.add_get("/model_info", self.model_info)
        app.router.add_get("/server_info", self.server_info)
        app.router.add_get("/v1/loads", self.loads)
        app.router.add_post("/update_weights_from_disk", self.update_weights_from_disk)
        app.router.add_post("/init_weights_update_group", self.init_weights_update_group)
        app.router.add_post("/destroy_weights_update_group", self.destroy_weights_update_group)
        app.router.add_post("/begin_weight_update", self.begin_weight_update)
        app.router.add_post("/update_weights_from_distributed", self.update_weights_from_distributed)
        app.router.add_post("/end_weight_update", self.end_weight_update)
        app.router.add_route("*", "/weights_checker", self.weights_checker)
        app.router.add_post("/pause_generation", self.pause_generation)
        app.router.add_post("/continue_generation", self.continue_generation)
        app.router.add_route("*", "/flush_cache", self.flush_cache)
        app.router.add_post("/abort_request", self.abort_request)
        return app

    async def generate(self, http: web.Request) -> web.Response:
        """One prompt gives one object; a list of prompts gives a list."""
        body = await _json(http)
        prompts, is_batch = self._prompts(body)
        params = _one_per_prompt(body.get("sampling_params") or {}, len(prompts), "sampling_params")
        rids = _one_per_prompt(body.get("rid") or None, len(prompts), "rid")
        if body.get("stream"):
            raise _semantic("streaming is not supported by this server; send stream: false")
        requests = [
            self._request(ids, raw, rid or uuid.uuid4().hex)
            for ids, raw, rid in zip(prompts, params, rids, strict=True)
        ]
        if body.get("return_sampling_mask"):
            _have_masks_named(requests)
        replies = await self._finished(requests, bool(body.get("return_logprob")))
        return _reply(replies if is_batch else replies[0])

    def _prompts(self, body: dict[str, Any]) -> tuple[list[list[int]], bool]:
        ids = body.get("input_ids")
        if not isinstance(ids, list) or not ids:
            raise _semantic("input_ids must be a list of token ids, or a list of such lists; text is not accepted")
        is_batch = isinstance(ids[0], list)
        prompts = ids if is_batch else [ids]
        for prompt in prompts:
            if not isinstance(prompt, list):
                raise _semantic(f"input_ids has {prompt!r:.40} where a list of token ids is expected")
            bad = [i for i in prompt if not (isinstance(i, int) and 0 <= i < self.engine.vocab_size)]
            if not prompt or bad:
                raise _semantic(f"input id {bad[:1]} is not in [0, {self.engine.vocab_size}), or the prompt is empty")
        return prompts, is_batch

    def _request(self, ids: list[int], raw: dict[str, Any], rid: str) -> Request:
        try:
            params = SamplingParams.parse(raw)
            if not isinstance(rid, str):
                raise TypeError(f"rid is {rid!r:.40}; give a text, or leave it out")
        except (ValueError, TypeError) as error:
            # SGLang answers contract errors with a bare string
            raise _bad_request({"error": str(error)}) from error
        if len(ids) + params.max_new_tokens > self.engine.max_length:
            raise _semantic(
                f"{len(ids)} input tokens and max_new_tokens {params.max_new_tokens} exceed the context length "
                f"{self.engine.max_length}"
            )
        if rid in self.in_flight:
            raise _semantic(f"Duplicate request ID detected: {rid}")
        eos = frozenset() if params.ignore_eos else self.engine.eos_ids
        return Request(rid, ids, params, eos | frozenset(params.stop_token_ids))

    async def _finished(self, requests: list[Request], with_logprobs: bool) -> list[dict[str, Any]]:
        self.in_flight.update(request.rid for request in requests)
        try:
            for request in requests:
                self._submit(request)
            await asyncio.gather(*(asyncio.wrap_future(request.future) for request in requests))
        except asyncio.CancelledError:  # the client has gone
            for request in requests:
                self.engine.run(lambda rid=request.rid: self.engine.abort(rid))  # type: ignore[misc]
            raise
        finally:
            self.in_flight.difference_update(request.rid for request in requests)
        return [_generation(request, with_logprobs) for request in requests]

    def _submit(self, request: Request) -> None:
        if request.params.max_new_tokens == 0:
            request.version_starts.append((self.engine.version, 0))
            request.finish({"type": "length", "length": 0})
        else:
            self.engine.submit(request)

    async def health(self, _http: web.Request) -> web.Response:
        """200 while the engine thread answers; 503 while it is paused, as SGLang's, which generates a token."""
        await asyncio.wait_for(self._run(lambda: None), timeout=20)
        return web.Response(status=503 if self.engine.is_paused else 200)

    async def model_info(self, _http: web.Request) -> web.Response:
        """Which weights are served."""
        config = self.engine.model.config
        return _reply(
            {
                "model_path": str(self.engine.model_path),
                "served_model_name": str(self.engine.model_path),
                "is_generation": True,
                "weight_version": self.engine.version,
                "model_type": config.model_type,
                "architectures": config.architectures,
            }
        )

    async def server_info(self, _http: web.Request) -> web.Response:
        """The engine's limits and counters."""
        state = {"num_steps": self.engine.num_steps, "num_tokens": self.engine.num_tokens}
        return _reply(
            {
                "version": f"egrc_mega-{__version__}",
                "status": "ready",
                "tp_size": 1,
                "max_running_requests": self.engine.max_batch_size,
                "max_req_input_len": self.engine.max_length,
                "vocab_size": self.engine.vocab_size,
                "uptime_s": time.monotonic() - self.started,
                "internal_states": [state],
            }
        )

    async def loads(self, _http: web.Request) -> web.Response:
        """Requests that run, and that wait."""
        running, waiting = self.engine.load
        return _reply({"loads": [{"dp_rank": 0, "num_running_reqs": running, "num_waiting_reqs": waiting}]})

    async def update_weights_from_disk(self, http: web.Request) -> web.Response:
        """Take the weights of a folder; 400 leaves the old ones in place."""
        body = await _json(http)
        path = body.get("model_path")
        version = body.get("weight_version")
        if not isinstance(path, str) or "\0" in path:
            raise _malformed("model_path is required, the path of a folder")
        if not isinstance(version, str | None):
            raise _malformed(f"weight_version is {version!r:.40}; give a text")

        def update() -> bool:
            self.engine.update_weights(Path(path), version)
            return self.engine.holds_cache

        if body.get("abort_all_requests"):
            await self._run(lambda: self.engine.abort(None))
        try:
            holds_cache = await asyncio.wrap_future(self.engine.run(update, when_idle=True))
        except WeightUpdateError as error:
            return _reply({"success": False, "message": str(error), "num_paused_requests": 0}, status=400)
        if holds_cache and body.get("flush_cache", True):
            message = "Weights were updated, but the cache was not flushed: requests are paused in place"
            return _reply({"success": False, "message": message, "num_paused_requests": 0}, status=400)
        return _reply({"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0})

    async def init_weights_update_group(self, http: web.Request) -> web.Response:
        """Join a gloo group; blocks until all members are there."""
        body = await _body(http, GroupBody)
        return await _success(asyncio.to_thread(self.receiver.join, body))

    async def destroy_weights_update_group(self, http: web.Request) -> web.Response:
        """Leave a process group that weights came by."""
        body = await _body(http, LeaveBody)
        return await _success(asyncio.to_thread(self.receiver.leave, body.group_name))

    async def begin_weight_update(self, _http: web.Request) -> web.Response:
        """Open the session that buckets need."""
        return await _success(self._run(self.receiver.begin))

    async def end_weight_update(self, _http: web.Request) -> web.Response:
        """Close the session; the version is then whole."""
        return await _success(self._run(self.receiver.end))

    async def update_weights_from_distributed(self, http: web.Request) -> web.Response:
        """Receive one bucket of weights by broadcast."""
        body = await _body(http, BucketBody)

        def receive() -> None:
            self.receiver.receive(body)
            if self.engine.holds_cache and body.flush_cache:
                raise WeightUpdateError("Weights were updated, but the cache was not flushed: requests are running")

        return await _success(asyncio.wrap_future(self.engine.run(receive, when_idle=True)))

    async def weights_checker(self, http: web.Request) -> web.Response:
        """Checksums of all parameters: the first 8 bytes of SHA-256, as SGLang computes them on a CPU."""
        if (await _json(http)).get("action") != "checksum":
            raise _bad_request({"success": False, "message": "only the action checksum is known"})
        found = await self._run(self.engine.checksums)
        return _reply({"success": True, "message": "Success.", "ranks": [{"checksums": found}]})

    async def pause_generation(self, http: web.Request) -> web.Response:
        """Modes abort, retract, in_place."""
        mode = (await _json(http)).get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise _malformed(f"unknown mode {mode!r:.40}")
        await self._run(lambda: self.engine.pause(mode))
        return _reply({"message": "Generation paused successfully.", "status": "ok"})

    async def continue_generation(self, _http: web.Request) -> web.Response:
        """Generate again after a pause."""
        await self._run(self.engine.resume)
        return _reply({"message": "Generation continued successfully.", "status": "ok"})

    async def flush_cache(self, _http: web.Request) -> web.Response:
        """Nothing is cached between requests; refused while requests hold a cache, as SGLang does."""
        if await self._run(lambda: self.engine.holds_cache):
            return web.Response(status=400, text="Cache not flushed: requests are running or paused in place.\n")
        return web.Response(text="Cache flushed.\n")

    async def abort_request(self, http: web.Request) -> web.Response:
        """Always 200, also for an unknown rid."""
        body = await _json(http)
        rid = None if body.get("abort_all") else body.get("rid", "")
        await self._run(lambda: self.engine.abort(rid))
        return web.Response()

    async def _run(self, command: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self.engine.run(command))


async def _success(work: Awaitable[Any]) -> web.Response:
    """The reply of a weight endpoint."""
    try:
        await work
    except WeightUpdateError as error:
        return _reply({"success": False, "message": str(error)}, status=400)
    return _reply({"success": True, "message": "Success"})


def _have_masks_named(requests: list[Request]) -> None:
    """Refuses as SGLang does what has no bound on the size of a sampling mask."""
    for request in requests:
        params = request.params
        if not (params.is_greedy or 1 <= params.top_k <= MAX_MASK):
            raise _semantic(f"return_sampling_mask requires finite 1 < top_k <= {MAX_MASK}; got top_k={params.top_k}")
        request.names_masks = True


def _generation(request: Request, with_logprobs: bool) -> dict[str, Any]:
    starts = request.version_starts
    ends = [start for _version, start in starts[1:]] + [len(request.output_ids)]
    spans = [{"version": v, "start": s, "end": e} for (v, s), e in zip(starts, ends, strict=True)] if starts else []
    meta: dict[str, Any] = {
        "id": request.rid,
        "finish_reason": request.finish_reason,
        "prompt_tokens": len(request.prompt_ids),
        "completion_tokens": len(request.output_ids),
        "cached_tokens": 0,
        "weight_version": starts[-1][0] if starts else None,
        "weight_versions": spans,
        "num_retractions": request.num_retractions,
        "e2e_latency": time.monotonic() - request.created,
    }
    if request.names_masks:
        meta |= {
            "output_token_sampling_mask": request.masks,
            "output_token_sampling_logprobs": request.masked_logprobs,
            "output_token_sampling_mask_length": len(request.masks),
        }
    if with_logprobs:
        rows = [[lp, token, None] for lp, token in zip(request.logprobs, request.output_ids, strict=True)]
        meta |= {
            "input_token_logprobs": [],
            "output_token_logprobs": rows,
            "output_token_logprobs_length": len(rows),
        }
    return {"text": "", "output_ids": request.output_ids, "meta_info": meta}


def _one_per_prompt(value: Any, count: int, name: str) -> list[Any]:
    """One value for all prompts, or a list with one for each."""
    if not isinstance(value, list):
        if name == "rid" and value is not None and count > 1:
            return [f"{value}_{i}" for i in range(count)]
        return [value] * count
    if len(value) != count:
        raise _semantic(f"{name} has {len(value)} entries for {count} prompts")
    return value


async def _json(http: web.Request) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            raw = await http.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"no whole body within {BODY_TIMEOUT_S:g} s") from error
    except web.RequestPayloadError as error:  # its chunks or its compression are none
        raise _malformed(f"the body cannot be read: {' '.join(str(error).split())}") from error
    try:
        body = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError as error:
        raise _bad_request({"object": "error", "message": str(error), "type": "Bad Request", "code": 400}) from error
    if not isinstance(body, dict):
        raise _malformed("a JSON object is expected")
    return body


async def _body(http: web.Request, kind: type[Body]) -> Body:
    try:
        return kind.model_validate(await _json(http))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _malformed(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _malformed(message: str) -> web.HTTPBadRequest:
    return _bad_request({"object": "error", "message": message, "type": "Bad Request"})


def _semantic(message: str) -> web.HTTPBadRequest:
    return _bad_request({"error": {"message": message}})


def _bad_request(body: dict[str, Any]) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(body=orjson.dumps(body), content_type="application/json")


def _reply(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _check_key(keys: Keys) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if keys.admits(request.path, request.headers.get("Authorization", "")):
            return await handler(request)
        return _reply({"error": "Unauthorized"}, status=401)

    return check


@web.middleware
async def _errors_as_sglang(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _reply({"detail": "Not Found"}, status=404)
    except web.HTTPMethodNotAllowed:
        return _reply({"detail": "Method Not Allowed"}, status=405)
