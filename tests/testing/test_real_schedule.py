"""The true coordinators in virtual time: what they take agrees with the simulation, however busy the machine is."""

import asyncio
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest

from egrc_mega.plan.schedule.modes import MODES
from egrc_mega.plan.schedule.responses import Responses
from egrc_mega.plan.schedule.server import Job
from egrc_mega.plan.schedule.setting import Outcome, Setting, Window
from egrc_mega.testing.loaded_server import LoadedFakeServer
from egrc_mega.testing.real_schedule import run_real
from egrc_mega.testing.virtual_threads import SharedVirtualLoop

pytestmark = pytest.mark.long_file
WINDOW = Window(5, 1, 1)


@dataclass
class Flat:
    """A decoding step takes a hundredth of a second, and a thousandth more for each that runs."""

    kv_tokens: float = math.inf
    kv_token_s: float = 1e-7

    def dense_s(self, num_running: int) -> float:
        return 0.01 + num_running / 1000

    def prefill_s(self, num_tokens: float) -> float:
        return num_tokens / 20000


SETTING = Setting(Flat(), 2, 3, 2, Responses(mean=4096), 128, 0.005, write_s=4.0, load_s=6.0)


@cache
def both(mode: str) -> tuple[Outcome, Outcome]:
    """The simulation's, and the true coordinator's."""
    return MODES[mode](SETTING, WINDOW).run(), run_real(SETTING, mode, WINDOW)


@pytest.mark.parametrize("mode", MODES)
def test_simulation_and_true_coordinator_agree_on_time_and_idleness(mode: str) -> None:
    simulated, real = (outcome.summary(4) for outcome in both(mode))
    assert real["step_s"] == pytest.approx(simulated["step_s"], rel=0.01)
    for side in ("trainer_idle", "servers_idle", "servers_stalled"):
        assert real[side] == pytest.approx(simulated[side], abs=0.01)


@pytest.mark.parametrize("mode", MODES)
def test_simulation_and_true_coordinator_train_the_same_groups_from_weights_of_the_same_age(mode: str) -> None:
    simulated, real = both(mode)
    assert [step.places for step in real.steps] == [step.places for step in simulated.steps]
    assert [step.oldest for step in real.steps] == [step.oldest for step in simulated.steps]
    for one, other in zip(simulated.steps, real.steps, strict=True):
        for lag in one.lags | other.lags:
            assert one.lags[lag] == pytest.approx(other.lags[lag], abs=6 * 2 * 64)  # replies round to 64 tokens


def test_time_waits_for_a_thread_that_works_and_jumps_when_it_sleeps() -> None:
    loop, seen = SharedVirtualLoop(), []
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def after(seconds: float) -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(seconds), loop).result()

    begun = time.monotonic()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
    while time.monotonic() < begun + 0.05:  # works
        seen.append(loop.time())
    assert set(seen) == {0.0}
    after(10)
    assert loop.time() == 10.0  # and not the 1000 that are waited for, too
    after(5000)
    assert loop.time() == 5010.0
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_timer_that_rings_a_little_early_still_answers_the_request() -> None:
    """Loops call timers that are due within the resolution of their clock, and their time does not pass by that."""
    server = LoadedFakeServer(Flat(), Responses(mean=64), 10, 0.0, Counter())
    server.load.add([job := Job(None, 100, 10)])
    event = server.load.next_event()
    loop = SharedVirtualLoop()

    async def ring() -> None:
        job.key = loop.create_future()
        loop.now = (event - 1e-7) / server.scale.seconds
        server.account(event)

    loop.run_until_complete(ring())
    assert job.key.done() and server.load.num_open == 0
    loop.close()
