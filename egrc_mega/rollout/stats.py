"""What the servers did for a step, as seen from here."""

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from egrc_mega.rollout.server import Server
from egrc_mega.rollout.wire import Usage


class Busy:
    """For how long something had requests, since `restart`."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self._ended_s = 0.0
        self._since = 0.0

    def enter(self) -> None:
        """It gets a request."""
        if self.num_in_flight == 0:
            self._since = time.monotonic()
        self.num_in_flight += 1

    def leave(self) -> None:
        """It has one less."""
        self.num_in_flight -= 1
        if self.num_in_flight == 0:
            self._ended_s += time.monotonic() - self._since

    def seconds(self) -> float:
        """They are counted up to now, where it has some still."""
        return self._ended_s + (time.monotonic() - self._since if self.num_in_flight else 0.0)

    def restart(self) -> None:
        """What it has now counts from now on."""
        self._ended_s, self._since = 0.0, time.monotonic()


class FleetStats:
    """Counts since the last `take`, apart from losses, which count for the whole run."""

    def __init__(self) -> None:
        self.num_in_flight = 0
        self.num_lost_requests = 0
        self.num_restarts = 0
        self.num_busy_replies = 0
        self.events: list[str] = []
        """Servers that were lost, with the cause, and that came back."""
        self._peak = 0
        self._queue = 0
        self._busy: defaultdict[int, Busy] = defaultdict(Busy)
        """By the server's number."""
        self._usages: dict[int, Usage] = {}

    def enter(self, server: int) -> None:
        """Note that a request is sent to the server of this number."""
        self._busy[server].enter()
        self.num_in_flight += 1
        self._peak = max(self._peak, self.num_in_flight)

    def leave(self, server: int) -> None:
        """Note that a request was answered there, or lost."""
        self._busy[server].leave()
        self.num_in_flight -= 1

    def note_queue(self, waiting: int) -> None:
        """Requests that servers said to have in their queues."""
        self._queue = max(self._queue, waiting)

    def take(self, servers: Sequence[Server]) -> dict[str, Any]:
        """Fields of the step's record; each server's rate is over the time in which it had requests itself."""
        usages = [server.client.usage for server in servers]
        deltas = [
            usage - self._usages.get(server.number, Usage(0, 0, 0))
            for server, usage in zip(servers, usages, strict=True)
        ]
        busy_s = [self._busy[server.number].seconds() for server in servers]
        prompt = sum(delta.prompt for delta in deltas)
        record = {
            "requests_in_flight": self._peak,
            "queue": self._queue,
            "cache_hit_rate": sum(delta.cached for delta in deltas) / prompt if prompt else None,
            "server_tokens_per_s": [
                delta.output / own_s if own_s else 0.0 for delta, own_s in zip(deltas, busy_s, strict=True)
            ],
            "busy_replies": self.num_busy_replies,
            "lost_requests": self.num_lost_requests,
            "server_restarts": self.num_restarts,
            "server_events": self.events,
        }
        self.events, self.num_busy_replies = [], 0
        self.forget_rates(servers)
        return record

    def forget_rates(self, servers: Sequence[Server]) -> None:
        """Begin anew with what is measured between two records: peaks, tokens and times."""
        self._usages = {server.number: server.client.usage for server in servers}
        self._peak, self._queue = self.num_in_flight, 0
        for busy in self._busy.values():
            busy.restart()
