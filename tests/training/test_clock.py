"""Ranks tell of one clock: exactly on one machine, and on several as well as the quickest message."""

import time
from collections.abc import Callable, Iterator

import pytest

from egrc_mega.observe.spans import RECORDER, Recorder
from egrc_mega.training import clock

AHEAD_S = 100.0


class RankOne:
    """A world of two as rank 1 sees it; rank 0's clock is ahead, and messages take their time."""

    def __init__(self, boots: list[str], delays: list[float]) -> None:
        self.boots, self.delays = boots, iter(delays)
        self.rank_0 = Recorder()
        self.rank_0.wall_offset = RECORDER.wall_offset + AHEAD_S

    def gather_texts(self, _text: str) -> list[str]:
        return self.boots

    def rank(self) -> int:
        return 1

    def on_rank_0(self, compute: Callable[[], bytes]) -> bytes:
        own, RECORDER.wall_offset = RECORDER.wall_offset, self.rank_0.wall_offset
        try:
            told = compute()
        finally:
            RECORDER.wall_offset = own
        number = float(told)
        is_a_time = number > RECORDER.wall_time(time.monotonic()) - 1
        return repr(number - next(self.delays)).encode() if is_a_time else told


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = RECORDER.wall_offset
    yield
    RECORDER.wall_offset = before


def test_on_rank_0s_machine_its_clock_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = RankOne(["a", "a"], [])
    monkeypatch.setattr(clock, "distributed", world)
    clock.share_clock()
    assert RECORDER.wall_offset == world.rank_0.wall_offset


def test_elsewhere_the_quickest_message_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    world = RankOne(["a", "b"], [9.0, 8.0, 0.25, 7.0, 6.0, 5.0, 4.0, 3.0])
    monkeypatch.setattr(clock, "distributed", world)
    own = RECORDER.wall_offset
    clock.share_clock()
    # late by the way of that message, and by what this machine does between two lines
    assert own + AHEAD_S - 0.25 - 2.9 < RECORDER.wall_offset <= own + AHEAD_S - 0.25
