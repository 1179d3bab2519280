"""A fleet without servers: answers come in random order, some late, some never, some refused; it takes notes."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.rollout.segments import unsampled
from egrc_mega.rollout.stream import Outcome, Refused
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sections.stage import SamplingSection, StageSection
from egrc_mega.training.collection import Collector, Means, Planner
from egrc_mega.training.turn import Turn
from egrc_mega.types import (
    Ask,
    Completion,
    Drawn,
    FinishReason,
    Grade,
    IntArray,
    Problem,
    RolloutRequest,
    Sample,
    VersionSpan,
    token_array,
)

N, WANTED, CAP, STEPS = 3, 4, 6, 6
RIGHT, WRONG = 7, 8
MOST_REQUESTS = 5000
"""Of one step, far beyond what any limit allows."""
SECTION = ExploreSection(
    clip_len=8, steps=STEPS, rollout=SamplingSection(n=N, max_new_tokens=CAP, temperature=0.9, top_p=0.8)
)


def turn_of(step: int, stage: StageSection = SECTION, *, opens: bool = False) -> Turn:
    """A step of a stage; it opens its stage only where that is said."""
    method = build_method(stage)
    return Turn(
        step, 0 if opens else step + 1, stage, method, View(step=step, state=method.State(), seed=1), f"v{step}"
    )


class Problems:
    """Problem number p is called p."""

    def take(self, position: int) -> Problem:
        """The problem of a number."""
        return Problem(key=str(position), text="", answer="")


class Words:
    """Renders problem p as 1, p."""

    def prompt_ids(self, problem: Problem, _ask: Ask) -> IntArray:
        return token_array([1, int(problem.key)])

    def forced_ids(self, _ask: Ask) -> IntArray:
        return token_array()


def judge(drawn: Sequence[Drawn], _needs: frozenset[str]) -> list[Sample]:
    """Right when the last token says so."""
    return [
        Sample(
            problem=one.problem,
            ask=one.ask,
            prompt_ids=one.request.prompt_ids,
            completion=one.completion,
            text="",
            grade=Grade.RIGHT if one.completion.output_ids[-1] == RIGHT else Grade.WRONG,
            well_formed=True,
        )
        for one in drawn
    ]


@dataclass
class Servers:
    """Answers in any order, some requests late, some never; takes notes."""

    rng: random.Random
    version: str = "v0"
    refuses: float = 0.0
    right: float = 0.5
    slow: frozenset[int] = frozenset()
    """Problems whose requests are answered when nothing else is left."""
    sent: list[RolloutRequest] = field(default_factory=list)
    begun: dict[str, Completion] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    num_aborted: int = 0

    def stream(self, _environment: None) -> "FakeStream":
        """The notes are of the newest one."""
        self.sent, self.begun, self.finished, self.num_aborted = [], {}, set(), 0
        return FakeStream(self)


class FakeStream:
    """The requests of one step, answered in any order."""

    def __init__(self, servers: Servers) -> None:
        self.servers, self.rng = servers, servers.rng
        self.open: list[RolloutRequest] = []
        self.first_versions: dict[str, str] = {}
        """Of the weights that each request came to, by rid; others may take their place before it is answered."""

    @property
    def num_open(self) -> int:
        return len(self.open)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.open = []

    def add(self, requests: Sequence[RolloutRequest], begun: Mapping[str, Completion] | None = None) -> None:
        self.open += requests
        self.servers.sent += requests
        self.first_versions |= dict.fromkeys((request.rid for request in requests), self.servers.version)
        assert len(self.servers.sent) < MOST_REQUESTS, "a step asks without end"
        self.servers.begun |= begun or {}

    def take(self) -> list[Outcome]:
        """Some of what is open."""
        if not self.open:
            return []
        quick = [r for r in self.open if int(r.prompt_ids[1]) not in self.servers.slow] or self.open
        chosen = self.rng.sample(quick, self.rng.randint(1, len(quick)))
        self.open = [request for request in self.open if request not in chosen]
        return [self.outcome(request) for request in chosen]

    def cancel(self, rids: Sequence[str]) -> None:
        """Nothing comes of these any more."""
        self.servers.num_aborted += len(rids)
        self.open = [request for request in self.open if request.rid not in rids]

    def wake(self) -> None:
        """Do nothing, for nobody waits here."""

    def outcome(self, request: RolloutRequest) -> Outcome:
        """A whole response, or a refusal."""
        if self.rng.random() < self.servers.refuses:
            return Refused(request, "too long")
        self.servers.finished.add(request.rid)
        return self.whole(request)

    def whole(self, request: RolloutRequest) -> Completion:
        """A response that has come to its end."""
        last = RIGHT if self.rng.random() < self.servers.right else WRONG
        return self.longer(request, CAP, last, FinishReason.STOP)

    def longer(self, request: RolloutRequest, size: int, last: int, finish: FinishReason) -> Completion:
        """The response goes on from where an earlier step has left it."""
        before = self.servers.begun.get(request.rid) or unsampled(request)
        start = len(before.output_ids)
        if start == size:
            return replace(before, finish_reason=finish)
        ids = [*before.output_ids.tolist(), *[5] * (size - start - 1), last]
        middle = (start + size) // 2
        own = [
            VersionSpan(version=version, start=first, end=end)
            for version, first, end in (
                (self.first_versions[request.rid], start, middle),
                (self.servers.version, middle, size),
            )
            if end > first
        ]
        return Completion(
            rid=request.rid,
            output_ids=token_array(ids),
            logprobs=np.full(size, -1.0, np.float32),
            sampled=np.ones(size, bool),
            finish_reason=finish,
            weight_versions=(*before.weight_versions, *own),
        )

    def abort(self) -> list[Completion]:
        """Some were whole by then, some have a few tokens, some none."""
        ended = []
        for request in self.open:
            start = len(self.servers.begun[request.rid].output_ids) if request.rid in self.servers.begun else 0
            if self.rng.random() < 0.2:
                self.servers.finished.add(request.rid)
                ended.append(self.whole(request))
            else:
                self.servers.num_aborted += 1
                ended.append(self.longer(request, self.rng.randint(start, CAP - 1), 5, FinishReason.ABORT))
        self.open = []
        return ended


def collector_of(servers: Servers, **fields: Any) -> Collector:
    """A collector of `WANTED` groups a step over these servers."""
    section = RolloutSection(prompts_per_step=WANTED, **fields)
    planner = Planner(Problems(), Words(), 1, (2, 3))  # type: ignore[arg-type]
    return Collector(Means(section, planner, servers, None, judge))  # type: ignore[arg-type]


def place_of(request: RolloutRequest) -> int:
    """The number of the request's problem."""
    return int(request.prompt_ids[1])
