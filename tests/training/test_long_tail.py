"""Asynchronous sampling of lengths with a long tail: whatever they are, all that is sampled is trained, and soon.

Time is a number here. A response takes as long as it has tokens once it has a place in a server, a group as long as its
longest response, and the trainer as long as it is told; weights arrive while the next step goes on.
"""

import heapq
from collections import Counter
from concurrent.futures import Future
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_stream import SECTION, WANTED, N, Problems, Words, judge, place_of, turn_of
from egrc_mega.training.collection import Planner, StepGroups
from egrc_mega.training.fates import fate_problems
from egrc_mega.training.pool import Pool
from egrc_mega.training.sampler import Sampling
from egrc_mega.training.staleness import oldest_lag
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan

STEPS, MEAN, CAP = 12, 12, 96
STAGE = SECTION.model_copy(update={"steps": STEPS})
PLANNER = Planner(Problems(), Words(), 1, (2, 3))  # type: ignore[arg-type]
PATIENT = settings(deadline=None, max_examples=25, derandomize=True)


def length_of(request: RolloutRequest, seed: int) -> int:
    """Log-normal with sigma .8, of this mean before it is cut at eight times the mean."""
    drawn = np.random.default_rng([seed, request.seed]).lognormal(np.log(MEAN) - 0.8**2 / 2, 0.8)
    return int(np.clip(round(drawn), 1, CAP))


class TimedStream:
    """Servers that generate so many responses at once, one token in a unit of time; the others queue."""

    def __init__(self, seed: int, num_slots: int) -> None:
        self.seed, self.num_slots, self.now = seed, num_slots, 0.0
        self.queue: list[RolloutRequest] = []
        self.running: list[tuple[float, str, float, RolloutRequest]] = []
        """End, id, begin; the first to end is first."""
        self.versions = [(0.0, "v0")]
        """Since when which weights are served."""
        self.ended: dict[str, int] = {}
        """Lengths, by rid."""
        self.is_woken = False

    @property
    def next_end(self) -> float:
        return self.running[0][0] if self.running else float("inf")

    def add(self, requests: list[RolloutRequest], begun: Any = None) -> None:
        self.queue += requests
        self._fill()

    def _fill(self) -> None:
        while self.queue and len(self.running) < self.num_slots:
            request = self.queue.pop(0)
            end = self.now + length_of(request, self.seed)
            heapq.heappush(self.running, (end, request.rid, self.now, request))

    def take(self) -> list[Completion]:
        if self.is_woken:
            self.is_woken = False
            return []
        self.now, rid, begin, request = heapq.heappop(self.running)
        self._fill()
        length = self.ended[rid] = length_of(request, self.seed)
        return [
            Completion(
                rid=rid,
                output_ids=np.full(length, 7),
                logprobs=np.full(length, -1.0, np.float32),
                sampled=np.ones(length, bool),
                finish_reason=FinishReason.STOP,
                weight_versions=self._spans(begin, length),
            )
        ]

    def _spans(self, begin: float, length: int) -> tuple[VersionSpan, ...]:
        """A token is of the weights that are served when it begins."""
        borders = [*(max(0, min(length, int(np.ceil(since - begin)))) for since, _name in self.versions), length]
        names = [name for _since, name in self.versions]
        return tuple(
            VersionSpan(version=name, start=start, end=end)
            for name, (start, end) in zip(names, pairwise(borders), strict=True)
            if end > start
        )

    def cancel(self, rids: list[str]) -> None:
        raise AssertionError("nothing is aborted")

    def wake(self) -> None:
        self.is_woken = True


class Run:
    """A trainer that takes `train_s` a step, whose weights are with the servers `load_s` later."""

    def __init__(self, seed: int, staleness: int, num_slots: int, train_s: float, load_s: float) -> None:
        self.train_s, self.load_s, self.stream = train_s, load_s, TimedStream(seed, num_slots)
        section = RolloutSection(prompts_per_step=WANTED, mode="async", max_staleness=staleness)
        turn = turn_of(0, STAGE, opens=True)
        self.pool = Pool(section, PLANNER, turn, Position(), 0)
        self.sampling = Sampling(self.pool, self.stream, judge)  # type: ignore[arg-type]
        self.arriving: list[tuple[float, str]] = []
        self.steps: list[StepGroups] = []
        self.whole_at: dict[int, int] = {}
        """By place: the step that was waited for, or trained, when the group was whole."""
        self.ended_by: list[list[int]] = []
        """Lengths of all responses that had ended when the step was taken."""

    def train_stage(self) -> None:
        self.sampling.send()
        for number in range(STEPS):
            found: Future[StepGroups] = Future()
            turn = turn_of(number, STAGE, opens=number == 0)
            self.sampling.post(lambda turn=turn, found=found: self.sampling.want(turn, found))
            self.advance(number)
            while not found.done():
                self.advance(number)
            self.steps.append(found.result(0))
            self.ended_by.append(list(self.stream.ended.values()))
            end = self.stream.now + self.train_s
            while self.next_event <= end:
                self.advance(number + 1)
            self.stream.now = end
            self.arriving.append((end + self.load_s, f"v{number + 1}"))

    @property
    def next_event(self) -> float:
        return min([self.stream.next_end, *(when for when, _name in self.arriving)])

    def advance(self, number: int) -> None:
        """A message, weights that arrive, or a response that ends: whatever is next."""
        stream = self.stream
        if not stream.is_woken and self.arriving and self.arriving[0][0] <= stream.next_end:
            stream.now, name = self.arriving.pop(0)
            stream.versions.append((stream.now, name))
            self.sampling.post(lambda: self.pool.note_version(name))
        before = dict(self.pool.entries)
        self.sampling.go_on()
        for place, entry in before.items():
            if entry.group is not None:
                self.whole_at.setdefault(place, number)


@PATIENT
@given(
    seed=st.integers(0, 2**32),
    staleness=st.integers(1, 3),
    num_slots=st.sampled_from([4, 16, 1000]),
    train_s=st.sampled_from([1.0, 15.0, 60.0]),
    load_s=st.sampled_from([0.25, 10.0]),
)
def test_lengths_that_are_trained_are_those_that_were_sampled_and_long_ones_come_no_later_than_the_bound(
    seed: int, staleness: int, num_slots: int, train_s: float, load_s: float
) -> None:
    run = Run(seed, staleness, num_slots, train_s, load_s)
    run.train_stage()
    batches = [[s.completion for group in step.groups for s in group.samples] for step in run.steps]
    lengths = [[len(completion.output_ids) for completion in batch] for batch in batches]
    # over the stage: as often as they were sampled, each once, and nothing was sampled in vain
    assert Counter(length for batch in lengths for length in batch) == Counter(run.stream.ended.values())
    assert [len(batch) for batch in lengths] == [WANTED * N] * STEPS
    assert not run.stream.running and not run.stream.queue and not run.pool.entries
    events = [step.fates.model_dump() for step in run.steps if step.fates]
    assert list(fate_problems(events, run.steps[-1].position)) == []
    assert all(oldest_lag(batch, number) <= staleness for number, batch in enumerate(batches))
    # none that is whole waits for more steps than the bound, and the longest quarter no longer than the others
    waits = [number - run.whole_at[place] for number, event in enumerate(events) for place in event["trained"]]
    longest = [max(s.length for s in group.samples) for step in run.steps for group in step.groups]
    assert max(waits) <= staleness
    is_long = np.array(longest) > np.quantile(longest, 0.75)
    assert np.mean(np.array(waits)[is_long]) <= np.mean(np.array(waits)[~is_long]) + 0.25
    # so in no window of steps the mean that is trained is further from the mean that is sampled than what waits at its
    # ends can make it: no more responses than the bound has room for
    trained_by = accumulate(Counter(batch) for batch in lengths)
    waiting = [Counter(ended) - trained for ended, trained in zip(run.ended_by, trained_by, strict=True)]
    assert all(each.total() <= staleness * WANTED * N for each in waiting) and not waiting[-1]


def test_lengths_are_as_long_tailed_as_they_are_said_to_be() -> None:
    requests = [request for place in range(400) for request in PLANNER.plan_alone(place, 0, turn_of(0, STAGE)).requests]
    lengths = np.array([length_of(request, 1) for request in requests])
    assert abs(lengths.mean() / MEAN - 1) < 0.1 and abs(np.log(lengths).std() - 0.8) < 0.05
    assert lengths.max() > 5 * MEAN and len({place_of(request) for request in requests}) == 400
