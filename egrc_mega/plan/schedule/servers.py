"""Many servers under one clock, which jumps from event to event."""

import heapq
import math
from collections.abc import Callable, Sequence

from egrc_mega.plan.schedule.server import DecodeLaw, Job, LoadedServer

Done = Callable[[Job], None]


class Servers:
    """Their clock, and what happens at which moment.

    Args:
        done: hears of every request that has ended.
    """

    def __init__(self, law: DecodeLaw, count: int, done: Done) -> None:
        self.now, self.done = 0.0, done
        self.all = [LoadedServer(law) for _ in range(count)]
        self._stamps = [0] * count
        self._events: list[tuple[float, int, int, int]] = []
        """A heap of moment, running number, server (or -1) and its stamp (or the number of the call)."""
        self._calls: dict[int, Callable[[], None]] = {}
        self._count = 0

    def at(self, moment: float, call: Callable[[], None]) -> None:
        """Call once that moment has come."""
        self._count += 1
        self._calls[self._count] = call
        heapq.heappush(self._events, (moment, self._count, -1, self._count))

    def add(self, number: int, jobs: list[Job]) -> None:
        """Send requests to a server."""
        self._catch_up(number)
        self.all[number].add(jobs)
        self._expect(number)

    def change(self, change: Callable[[LoadedServer], None], numbers: Sequence[int] | None = None) -> None:
        """Change servers, all of them by default, at the present moment."""
        for number in range(len(self.all)) if numbers is None else numbers:
            self._catch_up(number)
            change(self.all[number])
            self._expect(number)

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass, one event after another, until something is true."""
        while not until():
            self._next()

    def run_to(self, moment: float) -> None:
        """Let time pass until that moment."""
        while self._events and self._events[0][0] <= moment:
            self._next()
        self.now = moment

    def settle(self) -> None:
        """Bring every server's account up to the present."""
        for number in range(len(self.all)):
            self._catch_up(number)

    def _next(self) -> None:
        moment, _count, number, stamp = heapq.heappop(self._events)
        if number < 0:
            self.now = moment
            self._calls.pop(stamp)()
        elif stamp == self._stamps[number]:
            self.now = moment
            self._catch_up(number)
            self._expect(number)

    def _catch_up(self, number: int) -> None:
        for job in self.all[number].advance(self.now):
            self.done(job)

    def _expect(self, number: int) -> None:
        """What was expected of a server before it changed is forgotten."""
        self._stamps[number] += 1
        self._count += 1
        moment = self.all[number].next_event()
        if moment < math.inf:
            heapq.heappush(self._events, (moment, self._count, number, self._stamps[number]))
