"""Fake servers over HTTP that take as long as the simulation's servers do, in the time of their event loop."""

import asyncio
import math
from collections import Counter
from dataclasses import dataclass

from aiohttp import web

from egrc_mega.plan.schedule.responses import Responses
from egrc_mega.plan.schedule.server import DecodeLaw, Job, LoadedServer
from egrc_mega.testing.fake_server import FakeServer, Reply


@dataclass(frozen=True, slots=True)
class Scale:
    """What a second of the loop and a token of a reply stand for. Polls and bodies cost nothing then."""

    seconds: float = 100.0
    tokens: int = 64


class LoadedFakeServer(FakeServer):
    """Serves in a loop that somebody else runs: `await serve()` there. Problem p's prompt is 1, p.

    Args:
        attempts: how often each problem was asked for, shared by all servers.
    """

    def __init__(
        self, law: DecodeLaw, responses: Responses, prompt_tokens: int, load_s: float, attempts: Counter[int]
    ) -> None:
        super().__init__()
        self.load = LoadedServer(law)
        self.responses, self.prompt_tokens, self.load_s, self.attempts = responses, prompt_tokens, load_s, attempts
        self.scale = Scale()
        self.is_retracting = True
        """Whether the last pause has given up keys and values."""
        self._alarm: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Listen; `url` says where."""
        await self._serve()

    async def close(self) -> None:
        """Listen no longer, and hang up."""
        await self._runner.cleanup()

    def account(self, moment: float = 0.0) -> None:
        """Bring the account up to the loop's present, or to a moment that a timer has called for a little early."""
        self._catch_up(moment)
        self._expect()

    def _catch_up(self, moment: float = 0.0) -> None:
        moment = max(moment, asyncio.get_running_loop().time() * self.scale.seconds)
        while (event := self.load.next_event()) <= moment:
            self._answer(self.load.advance(event))
        self._answer(self.load.advance(max(moment, self.load.now)))

    def _answer(self, ended: list[Job]) -> None:
        for job in ended:
            assert isinstance(job.key, asyncio.Future)
            if not job.key.done():
                job.key.set_result(job)

    def _expect(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        event = self.load.next_event()
        if event < math.inf:
            self._alarm = asyncio.get_running_loop().call_at(event / self.scale.seconds, self.account, event)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.num_requests += 1
        place = body["input_ids"][1]
        number = self.attempts[place]
        self.attempts[place] += 1
        ended: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        job = Job(ended, self._length(place, number), self.prompt_tokens)
        self._catch_up()
        self.load.add([job])
        self._expect()
        await ended
        return web.json_response(self._reply(body, job))

    def _length(self, place: int, number: int) -> int:
        """The same as the simulation's, which draws whole groups."""
        return int(self.responses.of(place, number + 1)[number])

    def _reply(self, body: Reply, job: Job) -> Reply:
        """As many tokens as the scale says, with the versions where they were."""
        count = max(1, round(job.length / self.scale.tokens))
        spans = [(f"v{version}", round(start / self.scale.tokens)) for version, start, _end in job.spans]
        starts = [(name, min(start, count)) for name, start in spans]
        ends = [start for _name, start in starts[1:]] + [count]
        whole = [
            {"version": name, "start": start, "end": end}
            for (name, start), end in zip(starts, ends, strict=True)
            if start < end
        ]
        meta = {
            "id": body["rid"],
            "finish_reason": {"type": "stop", "matched": 2},
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": count,
            "output_token_logprobs_length": count,
            "weight_version": self.version,
            "weight_versions": whole,
            "output_token_logprobs": [[-1.0, 7, None]] * count,
        }
        return {"output_ids": [7] * count, "meta_info": meta}

    async def _fine(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self._catch_up()
        if request.path == "/pause_generation":
            self.is_retracting = body["mode"] == "retract"
            self.load.pause()
        if request.path == "/continue_generation":
            self.load.resume(recompute=self.is_retracting)
        self._expect()
        return await super()._fine(request)

    async def _update(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.load_s / self.scale.seconds)
        answer = await super()._update(request)
        self._catch_up()
        self.load.load(int(self.version.removeprefix("v")))
        self._expect()
        return answer
