"""What one server did when, as seen from here: its states, and each request from its sending to its reply."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CAPACITY = 100_000
"""Requests that wait to be taken; the oldest go."""


class Timeline:
    """The fleet's event loop writes, and once a step the main thread takes. Times are of the monotonic clock."""

    def __init__(self, state: str) -> None:
        self._states: deque[tuple[float, str]] = deque([(time.monotonic(), state)], maxlen=1000)
        self._requests: deque[tuple[float, float, str, dict[str, Any]]] = deque(maxlen=CAPACITY)

    def note_state(self, state: str) -> None:
        """From now on the server is in this state."""
        self._states.append((time.monotonic(), state))

    @contextmanager
    def request(self, rid: str) -> Iterator[dict[str, Any]]:
        """The server has a request. Yields its facts, to which the block adds what came of it."""
        facts: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield facts
        except BaseException as raised:
            facts["error"] = type(raised).__name__
            raise
        finally:
            self._requests.append((started, time.monotonic(), rid, facts))

    def take(self, wall_time: Callable[[float], float]) -> dict[str, Any]:
        """What has ended and changed since the last call, as JSON has it: `states` as [start, state], `requests` as
        [start, end, id, facts], times in seconds since the epoch."""
        states = [(wall_time(moment), state) for moment, state in _drained(self._states)]
        requests = [
            (wall_time(start), wall_time(end), rid, facts) for start, end, rid, facts in _drained(self._requests)
        ]
        return {"states": states, "requests": requests}


def _drained(waiting: deque[Any]) -> list[Any]:
    """What is there now; what another thread appends meanwhile stays for the next time."""
    return [waiting.popleft() for _ in range(len(waiting))]
