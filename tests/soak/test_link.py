"""A link passes everything on, until it spoils a completion or loses connections; held against the run's own client."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.errors import ServerLost
from egrc_mega.soak.link import Link
from egrc_mega.soak.schedule import GARBAGE
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.types import Completion, RolloutRequest, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=(2,))
REQUEST = RolloutRequest(rid="", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=1)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeServer, Link]]:
    with FakeServer() as fake, Link(fake.url) as link:
        yield fake, link


def ask(link: Link, count: int = 1) -> list[Completion | BaseException]:
    """So many completions at once, or why there are none."""

    async def talk() -> list[Completion | BaseException]:
        async with await open_session() as session:
            client = ServerClient(session, link.url, 60, vocab_size=40)
            requests = [replace(REQUEST, rid=f"r{i}") for i in range(count)]
            return await asyncio.gather(*map(client.generate, requests), return_exceptions=True)

    return asyncio.run(talk())


@pytest.mark.parametrize("kind", GARBAGE)
def test_one_completion_is_spoiled_and_the_next_is_right(kind: str, served: tuple[FakeServer, Link]) -> None:
    _fake, link = served
    strike = link.spoil(kind)
    spoiled, right = ask(link)[0], ask(link)[0]
    assert isinstance(spoiled, ServerLost), spoiled
    assert isinstance(right, Completion) and list(right.output_ids) == [7] * 4
    assert strike.num_struck == 1


def test_so_many_requests_lose_their_connection_and_the_next_do_not(served: tuple[FakeServer, Link]) -> None:
    _fake, link = served
    strike = link.cut(2)
    lost = [ask(link)[0] for _ in range(2)]
    assert all(isinstance(each, ServerLost) and "is gone" in str(each) for each in lost), lost
    assert isinstance(ask(link)[0], Completion)
    assert strike.num_struck == 2


def test_requests_under_way_lose_their_connection_too(served: tuple[FakeServer, Link]) -> None:
    fake, link = served
    fake.holds = lambda body: True
    before = fake.num_requests

    async def cut_when_both_are_there() -> None:
        while fake.num_requests < before + 2:
            await asyncio.sleep(0.01)
        link.cut(0)

    async def talk() -> list[Completion | BaseException]:
        cutting = asyncio.create_task(cut_when_both_are_there())
        found = await asyncio.to_thread(ask, link, 2)
        await cutting
        return found

    try:
        assert all(isinstance(each, ServerLost) for each in asyncio.run(talk()))
    finally:
        fake.holds = lambda body: False


def test_a_mended_link_has_forgotten_what_had_not_struck(served: tuple[FakeServer, Link]) -> None:
    _fake, link = served
    strikes = [link.spoil("nothing"), link.cut(3)]
    link.mend()
    assert isinstance(ask(link)[0], Completion)
    assert [strike.num_struck for strike in strikes] == [0, 0]


def test_a_link_to_a_server_that_is_gone_is_gone_itself(free_port: int) -> None:
    with Link(f"http://127.0.0.1:{free_port}") as link:
        (lost,) = ask(link)
    assert isinstance(lost, ServerLost) and "is gone" in str(lost)
