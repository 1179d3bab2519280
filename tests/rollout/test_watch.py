"""Whether a server is still at work, and how many wait there, over virtual seconds: see `rollout.watch`."""

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import CONTROL_TIMEOUT_S
from egrc_mega.rollout.state import State
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.stream import ABORT_TIMEOUT_S, Stream
from egrc_mega.rollout.watch import POLL_S, watch
from egrc_mega.testing.virtual_time import run_in_virtual_time

SILENCE_S = 10.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """Is its own client. What it says depends on the second; `hung_up` has the seconds at which it was hung up on."""

    def __init__(
        self,
        *,
        is_well: Callable[[float], bool] = lambda second: True,
        owes: Callable[[float], bool] = lambda second: True,
        replies_every: float | None = None,
    ) -> None:
        self.client: Any = self
        self.is_well, self.owes, self.replies_every = is_well, owes, replies_every
        self.is_serving = False
        self.hung_up: list[float] = []
        self.num_waiting: Any = 0

    async def is_healthy(self) -> bool:
        return self.is_well(now())

    @property
    def owes_replies(self) -> bool:
        return self.owes(now())

    @property
    def replied_at(self) -> float:
        return now() // self.replies_every * self.replies_every if self.replies_every else 0.0

    def hang_up(self) -> None:
        self.hung_up.append(now())


def watched(*servers: Server, seconds: float = 60.0) -> FleetStats:
    stats = FleetStats()

    async def work() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await watch(servers, stats, SILENCE_S)  # type: ignore[arg-type]

    run_in_virtual_time(work())
    return stats


def test_a_server_that_owes_replies_and_says_nothing_is_hung_up_on_after_its_silence_and_no_other_is() -> None:
    silent, well = Server(is_well=lambda second: False), Server()
    watched(silent, well)
    assert SILENCE_S < silent.hung_up[0] <= SILENCE_S + 2 * POLL_S
    assert well.hung_up == []


def test_a_question_that_is_lost_on_its_way_takes_no_longer_than_the_silence() -> None:
    unreachable = Server()

    async def no_answer() -> bool:
        await asyncio.sleep(CONTROL_TIMEOUT_S)
        return False

    unreachable.is_healthy = no_answer  # type: ignore[method-assign]
    watched(unreachable)
    assert SILENCE_S < unreachable.hung_up[0] <= SILENCE_S + 2 * POLL_S


def test_silence_begins_with_the_last_word() -> None:
    server = Server(is_well=lambda second: second < 20)
    watched(server)
    assert 20 + SILENCE_S - POLL_S < server.hung_up[0] <= 20 + SILENCE_S + 2 * POLL_S


def test_a_server_that_owes_nothing_may_be_silent_and_has_its_whole_time_from_the_first_request_on() -> None:
    server = Server(is_well=lambda second: False, owes=lambda second: second >= 30)
    watched(server)
    assert 30 + SILENCE_S - POLL_S < server.hung_up[0] <= 30 + SILENCE_S + 2 * POLL_S


@pytest.mark.parametrize(("every", "is_lost"), [(5.0, False), (25.0, True)])
def test_a_reply_is_a_word_as_well(every: float, is_lost: bool) -> None:
    server = Server(is_well=lambda second: False, replies_every=every)
    watched(server)
    assert bool(server.hung_up) is is_lost


def queue(*numbers: int | None, is_serving: bool = True) -> Any:
    """A server in which so many wait, each second another number; the last one stays."""
    left = list(numbers)

    async def num_waiting() -> int | None:
        return left.pop(0) if len(left) > 1 else left[0]

    async def is_healthy() -> bool:
        return True

    client = SimpleNamespace(num_waiting=num_waiting, is_healthy=is_healthy, replied_at=0.0)
    return SimpleNamespace(client=client, is_serving=is_serving, owes_replies=True, num_waiting=0)


def test_the_queue_is_the_largest_sum_over_all_servers() -> None:
    one, two = queue(3, 3, 0), queue(4, 4, None)
    stats = watched(one, two, seconds=10)
    assert stats._queue == 7
    assert (one.num_waiting, two.num_waiting) == (0, 0)


def test_a_server_that_does_not_serve_has_no_queue() -> None:
    assert watched(queue(3), queue(4, is_serving=False), seconds=10)._queue == 3


async def told_to_abort(loads_until: float, listens_from: float) -> list[float]:
    """When a server that ends its requests from some second on is hung up on."""
    hung_up: list[float] = []

    class Deaf:
        is_serving, client = True, property(lambda self: self)
        state = property(lambda self: State.LOADING if now() < loads_until else State.SERVING)
        in_flight = property(lambda self: int(now() < listens_from))

        async def abort_all(self) -> None:
            raise RolloutError("busy")

        def hang_up(self) -> None:
            hung_up.append(now())

    stream: Any = None
    server: Any = Deaf()
    telling = asyncio.create_task(Stream._tell_to_abort(stream, server))
    await asyncio.sleep(loads_until + ABORT_TIMEOUT_S + 2)
    telling.cancel()
    return hung_up


@pytest.mark.parametrize(("loads_until", "listens_from", "first"), [(0, 99, 30), (20, 99, 50), (0, 29, None)])
def test_a_server_that_does_not_end_what_it_is_told_to_abort_is_hung_up_on(
    loads_until: float, listens_from: float, first: float | None
) -> None:
    hung_up = run_in_virtual_time(told_to_abort(loads_until, listens_from))
    assert (hung_up[0] if hung_up else None) == (None if first is None else pytest.approx(first, abs=1.1))
