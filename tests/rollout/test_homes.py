"""To which server a new prompt goes: the one with the fewest requests; all samples of a prompt to the same one."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from egrc_mega.rollout.stream import Stream
from egrc_mega.testing.samples import PROMPT_IDS, make_sample
from egrc_mega.types import RolloutRequest, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())


@dataclass(frozen=True)
class Server:
    number: int


class Dispatcher:
    """Answers a request when it is told to, and knows which server each was meant for."""

    def __init__(self, num_servers: int) -> None:
        self.servers = [Server(n) for n in range(num_servers)]
        self.stats = None
        self.homes: dict[str, int] = {}
        self.waiting: dict[str, asyncio.Future[None]] = {}

    async def answered(self, request: RolloutRequest, _ticket: Any, home: Any, _begun: Any) -> Any:
        self.homes[request.rid] = home.number
        self.waiting[request.rid] = asyncio.get_running_loop().create_future()
        await self.waiting[request.rid]
        return make_sample(range(2)).completion


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    yield running
    running.call_soon_threadsafe(running.stop)
    thread.join()
    running.close()


class Asking:
    """A stream over servers that answer when they are told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, num_servers: int) -> None:
        self.loop, self.dispatcher = loop, Dispatcher(num_servers)
        self.stream = Stream(self.dispatcher, loop, None, 60.0, None)  # type: ignore[arg-type]

    def ask(self, *rids: str) -> list[int]:
        """The servers that the requests were meant for; the prompt's name is the first letter."""
        self.stream.add(
            [
                RolloutRequest(rid=rid, prompt_id=rid[0], prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=0)
                for rid in rids
            ]
        )
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()
        return [self.dispatcher.homes[rid] for rid in rids]

    def answer(self, *rids: str) -> None:
        for rid in rids:
            self.loop.call_soon_threadsafe(self.dispatcher.waiting[rid].set_result, None)
        left = len(rids)
        while left:
            left -= len(self.stream.take())


def test_samples_of_a_prompt_go_to_one_server_and_prompts_to_all(loop: asyncio.AbstractEventLoop) -> None:
    asking = Asking(loop, 3)
    assert asking.ask("a0", "b0", "c0", "a1", "b1", "c1", "a2") == [0, 1, 2, 0, 1, 2, 0]
    assert asking.stream.num_open == 7


def test_a_new_prompt_goes_where_the_fewest_requests_are(loop: asyncio.AbstractEventLoop) -> None:
    asking = Asking(loop, 2)
    assert asking.ask("a0", "a1", "a2", "b0") == [0, 0, 0, 1]
    assert asking.ask("c0", "d0", "e0") == [1, 1, 0]


def test_what_is_answered_no_longer_counts(loop: asyncio.AbstractEventLoop) -> None:
    asking = Asking(loop, 2)
    asking.ask("a0", "a1", "a2", "b0")
    asking.answer("a0", "a1", "a2")
    assert asking.stream.num_open == 1
    # server 0 has nothing now, server 1 has one
    assert asking.ask("c0", "d0") == [0, 0]
    # a prompt stays where its prefix is
    assert asking.ask("b1") == [1]
