"""What the servers did for a step: counts since the last record, each server's rate over the time it had requests."""

from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.rollout import stats as module
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.wire import Usage


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(module, "time", own)
    return own


def servers(*usages: Usage) -> list[Any]:
    return [SimpleNamespace(number=n, client=SimpleNamespace(usage=usage)) for n, usage in enumerate(usages)]


def flight(stats: FleetStats, clock: Clock, count: int, seconds: float, server: int = 0) -> None:
    """So many requests at once, for so long."""
    for _ in range(count):
        stats.enter(server)
    clock.now += seconds
    for _ in range(count):
        stats.leave(server)


def test_a_record_is_of_what_was_since_the_last_one(clock: Clock) -> None:
    stats = FleetStats()
    flight(stats, clock, 3, 2.0)
    clock.now += 50.0  # nothing is in flight
    flight(stats, clock, 1, 4.0, server=1)
    flight(stats, clock, 2, 6.0)
    for waiting in (2, 5, 1):
        stats.note_queue(waiting)
    stats.num_busy_replies, stats.num_lost_requests, stats.num_restarts = 4, 2, 1
    stats.events.append("server 1 is fenced")
    assert stats.take(servers(Usage(prompt=30, cached=6, output=40), Usage(prompt=10, cached=4, output=16))) == {
        "requests_in_flight": 3,
        "queue": 5,
        "cache_hit_rate": 10 / 40,
        "server_tokens_per_s": [5.0, 4.0],
        "busy_replies": 4,
        "lost_requests": 2,
        "server_restarts": 1,
        "server_events": ["server 1 is fenced"],
    }
    # losses and restarts count for the whole run, everything else for the step
    flight(stats, clock, 1, 4.0)
    assert stats.take(servers(Usage(prompt=35, cached=6, output=60), Usage(prompt=15, cached=9, output=16))) == {
        "requests_in_flight": 1,
        "queue": 0,
        "cache_hit_rate": 5 / 10,
        "server_tokens_per_s": [5.0, 0.0],
        "busy_replies": 0,
        "lost_requests": 2,
        "server_restarts": 1,
        "server_events": [],
    }


def test_a_request_that_is_under_way_counts_in_both_records(clock: Clock) -> None:
    """Sampling ahead goes on while a step is recorded."""
    stats = FleetStats()
    for _ in range(3):
        stats.enter(0)
    clock.now += 2.0
    stats.leave(0)
    first = stats.take(servers(Usage(8, 0, 10)))
    assert (first["requests_in_flight"], first["server_tokens_per_s"]) == (3, [5.0])
    clock.now += 4.0
    stats.leave(0)
    stats.leave(0)
    clock.now += 9.0
    second = stats.take(servers(Usage(8, 0, 30)))
    assert (second["requests_in_flight"], second["server_tokens_per_s"]) == (2, [5.0])
    assert stats.take(servers(Usage(8, 0, 30)))["requests_in_flight"] == 0


def test_a_slow_server_has_a_low_rate_however_long_the_others_wait_for_it(clock: Clock) -> None:
    stats = FleetStats()
    stats.enter(0)
    stats.enter(1)
    clock.now += 1.0
    stats.leave(0)
    clock.now += 9.0
    stats.leave(1)
    assert stats.take(servers(Usage(8, 0, 20), Usage(8, 0, 20)))["server_tokens_per_s"] == [20.0, 2.0]


def test_without_a_prompt_there_is_no_hit_rate_and_without_time_no_tokens_a_second(clock: Clock) -> None:
    found = FleetStats().take(servers(Usage(0, 0, 0)))
    assert (found["cache_hit_rate"], found["server_tokens_per_s"]) == (None, [0.0])


def test_what_is_forgotten_is_in_no_record_but_losses_and_events_are(clock: Clock) -> None:
    stats = FleetStats()
    flight(stats, clock, 9, 4.0)
    stats.note_queue(7)
    stats.num_lost_requests = 1
    stats.events.append("server 1 is fenced")
    stats.forget_rates(servers(Usage(prompt=30, cached=6, output=40)))
    flight(stats, clock, 2, 3.0)
    record = stats.take(servers(Usage(prompt=40, cached=11, output=46)))
    assert (record["requests_in_flight"], record["queue"], record["cache_hit_rate"]) == (2, 0, 0.5)
    assert record["server_tokens_per_s"] == [2.0]
    assert (record["lost_requests"], record["server_events"]) == (1, ["server 1 is fenced"])
