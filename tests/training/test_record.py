"""Every field of a step's record, recomputed by a reader who shares nothing with the writer but the samples."""

import random
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.records import DROPPED, Credit, View
from egrc_mega.observe.spans import Span
from egrc_mega.policy.flops import Work
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.wire import Usage
from egrc_mega.stages.state import Position
from egrc_mega.testing.fake_stream import Servers, collector_of
from egrc_mega.testing.fake_stream import turn_of as turn_of_fake_servers
from egrc_mega.testing.samples import make_sample
from egrc_mega.training import accounting
from egrc_mega.training.accounting import Accounting
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.lead import Lead, Lesson
from egrc_mega.training.record import step_record
from egrc_mega.training.staleness import mean_lag, oldest_lag
from egrc_mega.training.turn import Turn
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.types import FinishReason, Grade, Group, Problem, Sample, VersionSpan

SECTION = ExploreSection(label="second", steps=9, rollout={"temperature": 0.85})
COSTS: dict[str, Any] = {"time_step_s": 4.0, "time_train_s": 1.5, "sampled_groups": 3, "server_events": []}
UPDATE = UpdateMetrics(
    **{field.name: float(i + 1) for i, field in enumerate(fields(UpdateMetrics)) if field.name != "work"}
    | {"num_updates": 2, "work": Work()}  # type: ignore[arg-type]
)


class Telling(Method[ExploreSection, NoState]):
    """Has metrics of its own, of all it is given."""

    def metrics(self, groups: Any, credits: Any, view: View) -> dict[str, float]:
        return {"groups": float(len(groups)), "credits": float(len(credits)), "step": float(view.step)}


def with_spans(sample: Sample, *spans: tuple[str, int, int], think: int | None = None) -> Sample:
    versions = tuple(VersionSpan(version=name, start=start, end=end) for name, start, end in spans)
    return replace(sample, completion=replace(sample.completion, weight_versions=versions), think_length=think)


SAMPLES: list[list[tuple[Sample, Credit]]] = [
    [
        (
            with_spans(make_sample(range(4), reason="equal text"), ("v11", 0, 4), think=3),
            Credit(advantage=0.75, reward=1.2),
        ),
        # right, but cut off: wrong
        (
            with_spans(
                make_sample(range(9), finish=FinishReason.LENGTH, well_formed=False), ("v7", 0, 6), ("v11", 6, 9)
            ),
            Credit(advantage=-0.75, reward=-0.5, terms={"answer": 0.0, "length": -0.5}),
        ),
        (with_spans(make_sample(range(5), grade=Grade.UNGRADED), ("v9", 0, 5), think=4), DROPPED),
    ],
    [
        (
            with_spans(make_sample(range(3), grade=Grade.WRONG, reason="no box"), ("v10", 0, 3)),
            Credit(reward=0.25, kept=False, terms={"answer": 0.25, "mode": 0.5}),
        ),
        (
            with_spans(make_sample(range(2)), ("v11", 0, 2), think=1),
            Credit(advantage=np.array([-0.5, 0.5]), reward=1.0, terms={"answer": 1.0, "length": 0.0}),
        ),
        (with_spans(make_sample(range(1), grade=Grade.WRONG, well_formed=False), ("v11", 0, 1)), Credit(reward=0.0)),
        (with_spans(make_sample(range(7)), ("v11", 0, 7), think=7), Credit(advantage=-0.1, reward=1.1)),
    ],
]
GROUPS = [
    Group(problem=Problem(key=str(i), text="", answer=""), samples=tuple(s for s, _c in row))
    for i, row in enumerate(SAMPLES)
]
CREDITS = [[credit for _s, credit in row] for row in SAMPLES]
FLAT = [pair for row in SAMPLES for pair in row]


def turn_of(version: str = "v11") -> Turn:
    return Turn(11, 4, SECTION, Telling(SECTION), View(step=4, state=NoState(), seed=1), version)


def record(update: UpdateMetrics = UPDATE, groups: list[Group] = GROUPS, credits: Any = CREDITS) -> dict[str, Any]:
    return step_record(turn_of(), groups, credits, update, dict(COSTS), total_steps=20)


def reread() -> dict[str, Any]:
    """The step's fields by loops over samples and tokens."""
    graded = [s for s, _c in FLAT if s.grade is not Grade.UNGRADED]
    finished_right = [s for s in graded if s.grade is Grade.RIGHT and s.completion.finish_reason is FinishReason.STOP]
    judged = [c.reward for _s, c in FLAT if c.reward is not None]
    thinking = [s.think_length for s, _c in FLAT if s.think_length is not None]
    lags = [
        11 - int(span.version[1:])
        for s, _c in FLAT
        for span in s.completion.weight_versions
        for _token in range(span.start, span.end)
    ]
    lengths = [len(s.completion.output_ids) for s, _c in FLAT]
    found: dict[str, Any] = {
        "reward": sum(judged) / len(judged),
        "accuracy": len(finished_right) / len(graded),
        "length": sum(lengths) / len(FLAT),
        "think_length": sum(thinking) / len(thinking),
        "well_formed": sum(s.well_formed for s, _c in FLAT) / len(FLAT),
        "ungraded": sum(s.grade is Grade.UNGRADED for s, _c in FLAT) / len(FLAT),
        "truncated": sum(s.completion.finish_reason is FinishReason.LENGTH for s, _c in FLAT) / len(FLAT),
        "kept": sum(c.kept for _s, c in FLAT) / len(FLAT),
        "version_lag_max": max(lags),
        "version_lag_mean": sum(lags) / len(lags),
        "tokens": sum(lengths),
        "tokens_per_s": sum(lengths) / 4.0,
    }
    reasons = [s.reason for s, _c in FLAT]
    found["no_answer"] = sum(r in ("no box", "no end of thinking", "empty box") for r in reasons) / len(FLAT)
    for reason in ("equal text", "no box", "does not parse", "unevaluated", "too big", "too slow", "child died"):
        found[f"reason_{reason.replace(' ', '_')}"] = sum(r == reason for r in reasons) / len(FLAT)
    for name in ("answer", "length", "mode"):
        values = [c.terms[name] for _s, c in FLAT if name in c.terms]
        found[f"reward_{name}"] = sum(values) / len(values)
    return found


def test_what_is_measured_on_the_samples_is_what_a_second_reader_finds() -> None:
    found = record()
    expected = reread()
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    oldest = [max(11 - int(p.version[1:]) for s in g.samples for p in s.completion.weight_versions) for g in GROUPS]
    assert found["groups_by_staleness"] == [oldest.count(lag) for lag in range(max(oldest) + 1)]


def test_the_record_says_where_the_run_stands() -> None:
    found = record()
    place = {
        "step": 12,
        "total_steps": 20,
        "stage": "second",
        "method": "explore",
        "step_in_stage": 5,
        "temperature": 0.85,
        "weight_version": "v11",
        "groups": 2,
    }
    assert {name: found[name] for name in place} == place


def test_every_figure_of_the_update_and_every_cost_stands_under_its_own_name() -> None:
    found = record()
    for field in fields(UpdateMetrics):
        if field.name != "work":
            assert found[field.name] == getattr(UPDATE, field.name), field.name
    assert "work" not in found
    assert {name: found[name] for name in COSTS} == COSTS


@pytest.mark.parametrize(("num_updates", "updated"), [(0, False), (1, True), (2, True)])
def test_a_step_without_an_update_says_so(num_updates: int, updated: bool) -> None:
    assert record(replace(UPDATE, num_updates=num_updates))["updated"] is updated


def test_what_the_method_measures_stands_under_its_name() -> None:
    found = record()
    assert {name: value for name, value in found.items() if name.startswith("method_")} == {
        "method_groups": 2.0,
        "method_credits": 2.0,
        "method_step": 4.0,
    }


def test_nothing_stands_in_the_record_that_nobody_has_recomputed() -> None:
    known = {*reread(), *COSTS, *(field.name for field in fields(UpdateMetrics) if field.name != "work")}
    known |= {"step", "total_steps", "stage", "method", "step_in_stage", "temperature", "weight_version", "groups"}
    known |= {"groups_by_staleness", "updated", "method_groups", "method_credits", "method_step"}
    assert set(record()) == known


def test_without_a_verdict_there_is_no_accuracy_and_no_reward() -> None:
    sample = make_sample(range(3), grade=Grade.UNGRADED, version="v11")
    found = record(groups=[Group(problem=sample.problem, samples=(sample,))], credits=[[DROPPED]])
    assert [found[name] for name in ("accuracy", "reward", "think_length")] == [None, None, None]
    assert (found["ungraded"], found["kept"]) == (1.0, 0.0)
    assert not any(name.startswith("reward_") for name in found)


def test_lags_are_over_tokens_and_none_where_there_are_none() -> None:
    spans = [with_spans(make_sample(range(9)), ("v3", 0, 1), ("v5", 1, 9)).completion]
    assert oldest_lag(spans, 6) == 3
    assert mean_lag(spans, 6) == pytest.approx((3 * 1 + 1 * 8) / 9)
    assert (oldest_lag([], 6), mean_lag([], 6)) == (0, 0.0)
    empty = [with_spans(make_sample([])).completion]
    assert (oldest_lag(empty, 6), mean_lag(empty, 6)) == (0, 0.0)


# the whole event: what servers, clocks and the collection add

COUNTS = {
    "sampled_groups": 11,
    "groups_without_signal": 12,
    "refused_groups": 13,
    "aborted_requests": 14,
    "carried_groups": 15,
    "requeued_groups": 16,
}
SECONDS = {"rollout": 3.0, "grade": 0.5, "credit": 0.25, "train": 2.0, "sync": 1.25}
OF_SERVERS = {
    "requests_in_flight": 2,
    "queue": 6,
    "cache_hit_rate": 0.25,
    "server_tokens_per_s": [0.0],
    "busy_replies": 7,
    "lost_requests": 8,
    "server_restarts": 9,
    "server_events": ["server 0 is fenced"],
}
OF_THE_CLOCK = {
    # of the two seconds of the training phase, over four ranks
    "train_tokens": 900,
    "train_tokens_per_s": 450.0,
    "train_tflops": 3.0,
    "mfu": 0.25,
    **{f"time_{name}_s": seconds for name, seconds in SECONDS.items()},
    "time_rollout_ahead_s": 9.0,
    "time_step_s": 7.0,
    "memory_train_gib": 1.5,
    "length_sampled": 6.5,
}


def ended(name: str, seconds: float, thread: str = "MainThread", **facts: int) -> Span:
    """A span with half a second of other spans inside."""
    return Span(
        name=name,
        start=5.0,
        end=5.5 + seconds,
        inside_s=0.5,
        depth=0,
        thread=thread,
        rank=0,
        facts=facts,
        error=None,
    )


def of_servers() -> dict[str, Any]:
    stats = FleetStats()
    stats.num_busy_replies, stats.num_lost_requests, stats.num_restarts = 7, 8, 9
    stats.events.append("server 0 is fenced")
    for _ in range(2):
        stats.enter(0)
    for waiting in (6, 3):
        stats.note_queue(waiting)
    client = SimpleNamespace(usage=Usage(prompt=40, cached=10, output=0))
    return stats.take([SimpleNamespace(number=0, client=client)])  # type: ignore[list-item]


def of_the_clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    monkeypatch.setattr(accounting, "_memory_bytes", lambda: 3 * 2**29)
    costs = Accounting()
    with costs.phase("train"):
        pass
    spans = [ended(name, seconds) for name, seconds in SECONDS.items()]
    spans += [ended("ahead", 8.5, "ahead", step=11), ended("rollout", 20.0, "ahead")]
    return costs.record(11, spans, Work(900, 24 * 10**12), peak_tflops=12.0)


@pytest.fixture
def event(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The event `step`, as rank 0 writes it."""
    lead: Any = Lead.__new__(Lead)
    written: dict[str, Any] = {}
    lead.collected = StepGroups(GROUPS, Position(), dict(COUNTS), 6.5)
    lead.lesson = Lesson(GROUPS, CREDITS)
    lead.serving = SimpleNamespace(fleet=SimpleNamespace(take_stats=of_servers))
    lead.events = SimpleNamespace(write=lambda kind, **own: written.update({kind: own}))
    lead.rollouts = SimpleNamespace(write=lambda *_rows, **_at: None)
    lead.printer = SimpleNamespace(show=lambda _record, _num_evaluations: None)
    lead.gate_watch = SimpleNamespace(warnings=lambda _record: ())
    lead.trackers = SimpleNamespace(check=lambda: None)
    lead.record(turn_of(), UPDATE, of_the_clock(monkeypatch), 20)
    return written["step"]


def test_servers_clocks_and_the_collection_stand_in_the_event_as_they_were_measured(event: dict[str, Any]) -> None:
    expected = OF_SERVERS | OF_THE_CLOCK | COUNTS
    assert {name: event[name] for name in expected} == expected
    assert event["tokens_per_s"] == sum(s.length for s, _credit in FLAT) / 7.0


def test_nothing_stands_in_the_event_that_nobody_has_recomputed(event: dict[str, Any]) -> None:
    plain = set(record()) - set(COSTS)
    assert set(event) == plain | set(OF_SERVERS) | set(OF_THE_CLOCK) | set(COUNTS)
    # and the counts are those that a collection makes
    collected = collector_of(Servers(random.Random(1))).collect(turn_of_fake_servers(0), Position())
    assert set(collected.counts) == set(COUNTS)
