"""What over-sampling gains, on a clock of its own: slow problems take their time wherever they are asked for."""

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean

import pytest

from egrc_mega.rollout.stream import Outcome
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_stream import CAP, FakeStream, Servers, collector_of, place_of, turn_of
from egrc_mega.types import Completion, FinishReason, RolloutRequest

NUM_STEPS = 60
QUICK_S, SLOW_S = 0.01, 0.5


class Timed(Servers):
    """Every response takes its problem's time; what was aborted and goes on takes the rest of it."""

    def __init__(self, slow: frozenset[int]) -> None:
        super().__init__(random.Random(0), slow=slow)
        self.now = 0.0
        self.spent: dict[str, float] = {}
        """On the aborted part of a response, by rid."""

    def stream(self, _environment: None) -> AbstractContextManager[FakeStream]:
        super().stream(None)
        return nullcontext(TimedStream(self))

    def seconds(self, request: RolloutRequest) -> float:
        return SLOW_S if place_of(request) in self.slow else QUICK_S


class TimedStream(FakeStream):
    """The next outcome is the one that ends first."""

    def __init__(self, servers: Timed) -> None:
        super().__init__(servers)
        self.timed = servers
        self.ends: dict[str, float] = {}

    def add(self, requests: Sequence[RolloutRequest], begun: Mapping[str, Completion] | None = None) -> None:
        super().add(requests, begun)
        for request in requests:
            spent = self.timed.spent.get(request.rid, 0.0) if request.rid in (begun or {}) else 0.0
            self.ends[request.rid] = self.timed.now + self.timed.seconds(request) - spent

    def take(self) -> list[Outcome]:
        self.timed.now = max(self.timed.now, min(self.ends[request.rid] for request in self.open))
        ended = [request for request in self.open if self.ends[request.rid] <= self.timed.now + 1e-9]
        self.open = [request for request in self.open if request not in ended]
        return [self.outcome(request) for request in ended]

    def abort(self) -> list[Completion]:
        aborted, self.open = self.open, []
        for request in aborted:
            self.timed.spent[request.rid] = self.timed.seconds(request) - (self.ends[request.rid] - self.timed.now)
        sizes = [
            min(CAP - 1, len(self.servers.begun[r.rid].output_ids) if r.rid in self.servers.begun else 1)
            for r in aborted
        ]
        return [self.longer(r, size, 5, FinishReason.ABORT) for r, size in zip(aborted, sizes, strict=True)]


def seconds_a_step(over: float, *, partial: bool, share: float = 0.2) -> float:
    """Mean over many steps of four prompts, a share of which is slow."""
    rng = random.Random(1)
    servers = Timed(frozenset(place for place in range(1000) if rng.random() < share))
    collector = collector_of(servers, over_sampling=over, partial_rollouts=partial)
    position, seconds, num_slow = Position(), [], 0
    for number in range(NUM_STEPS):
        servers.version, start = f"v{number}", servers.now
        found = collector.collect(turn_of(number), position)
        position = found.position
        seconds.append(servers.now - start)
        num_slow += sum(int(group.problem.key) in servers.slow for group in found.groups)
    # slow ones are trained on as often as they are in the data
    asked = sum(place in servers.slow for place in range(position.cursor))
    assert num_slow == asked - sum(one.place in servers.slow for one in position.carried)
    return fmean(seconds)


@pytest.mark.parametrize(
    ("over", "partial", "most"), [(1.5, False, 0.9), (2.0, False, 0.7), (1.5, True, 0.55), (2.0, True, 0.5)]
)
def test_over_sampling_gains_for_as_long_as_the_run_goes_on(over: float, partial: bool, most: float) -> None:
    """Also once its spare places are taken by slow problems. Of the time of steps without it, at the most."""
    assert seconds_a_step(over, partial=partial) <= most * seconds_a_step(1.0, partial=False)
