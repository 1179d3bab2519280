"""A stream ends what it has begun: on every server when it aborts, and everything of its own when it is left."""

import asyncio
import time
from pathlib import Path
from typing import Any

from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.stream import Outcome, Stream, complete
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.types import FinishReason, RolloutRequest, Sampling

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())


def requests(count: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(rid=f"r{i}", prompt_id=f"p{i}", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=i)
        for i in range(count)
    ]


def attach(fakes: list[FakeServer], tmp_path: Path, **fields: Any) -> Fleet:
    section = RolloutSection(server="external", urls=tuple(fake.url for fake in fakes), **fields)
    return Fleet.start(section, tmp_path, "v0", tmp_path)


def wait_until_asked(fakes: list[FakeServer], count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(fake.num_requests for fake in fakes) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_abort_ends_what_is_under_way_on_every_server_and_every_response_comes_back(tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as two, attach([one, two], tmp_path) as fleet, fleet.stream() as stream:
        for fake in (one, two):
            fake.holds, fake.hold_s = lambda body: True, 30.0  # whoever is not told answers whole after that
        stream.add(requests(6))
        wait_until_asked([one, two], 6)
        ended = stream.abort()
        assert sorted(completion.rid for completion in ended) == [f"r{i}" for i in range(6)]
        assert {(c.finish_reason, len(c.output_ids)) for c in ended} == {(FinishReason.ABORT, 2)}
        assert one.num_aborts and two.num_aborts
        assert fleet.take_stats()["lost_requests"] == 0


def test_of_a_stream_that_is_left_nothing_goes_on(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as fleet:

        async def under_way() -> int:
            return len(asyncio.all_tasks()) - 1

        for _ in range(3):
            with fleet.stream() as stream:
                fake.holds = lambda body: True
                asked = fake.num_requests
                stream.add(requests(3))
                wait_until_asked([fake], asked + 3)
            assert fleet.stats.num_in_flight == fleet.servers[0].in_flight == 0
        deadline = time.monotonic() + 60
        while fleet.run(under_way()):
            assert time.monotonic() < deadline, "somebody still watches servers that nobody asks"
            time.sleep(0.01)


def test_requests_that_are_given_up_end_on_their_server_and_are_never_named(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as fleet, fleet.stream() as stream:
        fake.holds = lambda body: body["rid"] != "r2"
        stream.add(requests(3))
        wait_until_asked([fake], 3)
        stream.cancel(["r0", "r1", "nobody"])
        answered = [completion.rid for completion in complete(take_all(stream))]
        assert answered == ["r2"]
        assert fleet.stats.num_in_flight == fleet.servers[0].in_flight == 0
        assert fleet.take_stats()["lost_requests"] == 0
        assert not stream._homes and not stream._tasks, "a stream of a whole stage must not grow with it"


def take_all(stream: Stream) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while stream.num_open:
        outcomes += stream.take()
    return outcomes


def test_whoever_waits_for_an_outcome_can_be_woken_up_without_one(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as fleet, fleet.stream() as stream:
        stream.wake()
        assert stream.take() == []
