"""Spans: nesting, threads, exceptions, the bounded buffer, and sums that add up to the time that was watched."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from egrc_mega.observe import spans
from egrc_mega.observe.events import EventLog, read_events
from egrc_mega.observe.spans import RECORDER, Recorder, own_seconds, span


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 5e8


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spans, "time", clock)
    return clock


def test_a_span_has_name_times_thread_rank_and_facts(clock: Clock) -> None:
    recorder = Recorder(rank=3)
    with recorder.span("rollout", groups=4) as facts:
        clock.now += 2.5
        facts["tokens"] = 900
    [ended] = recorder.take()
    assert (ended.name, ended.start, ended.end, ended.seconds) == ("rollout", 1000.0, 1002.5, 2.5)
    assert (ended.thread, ended.rank, ended.error, ended.depth) == ("MainThread", 3, None, 0)
    assert ended.facts == {"groups": 4, "tokens": 900}
    assert recorder.take() == []


def test_a_fact_may_be_called_name(clock: Clock) -> None:
    recorder = Recorder()
    with recorder.span("load", name="model"):
        pass
    assert recorder.take()[0].facts == {"name": "model"}


def test_nested_spans_are_counted_once(clock: Clock) -> None:
    recorder = Recorder()
    with recorder.span("step"):
        clock.now += 1
        with recorder.span("rollout"):
            clock.now += 2
            for _ in range(2):
                with recorder.span("grade"):
                    clock.now += 4
        clock.now += 8
        with recorder.span("train"):
            clock.now += 16
    taken = recorder.take()
    assert [(s.name, s.depth, s.seconds) for s in taken] == [
        ("grade", 2, 4),
        ("grade", 2, 4),
        ("rollout", 1, 10),
        ("train", 1, 16),
        ("step", 0, 35),
    ]
    assert own_seconds(taken) == {"grade": 8, "rollout": 2, "train": 16, "step": 9}
    assert sum(own_seconds(taken).values()) == 35


def test_a_span_inside_one_of_its_own_name_is_counted_once(clock: Clock) -> None:
    recorder = Recorder()
    with recorder.span("sync"):
        clock.now += 1
        with recorder.span("sync"):
            clock.now += 2
    assert own_seconds(recorder.take()) == {"sync": 3}


def test_an_exception_closes_the_span_and_those_around_it_and_goes_on(clock: Clock) -> None:
    recorder = Recorder()
    with pytest.raises(KeyError), recorder.span("outer"), recorder.span("inner"):
        clock.now += 1
        raise KeyError("x")
    with recorder.span("after"):
        pass
    assert [(s.name, s.error, s.depth) for s in recorder.take()] == [
        ("inner", "KeyError", 1),
        ("outer", "KeyError", 0),
        ("after", None, 0),
    ]


def test_spans_of_another_thread_are_its_own_and_take_no_time_from_ours() -> None:
    recorder = Recorder()

    def sample_ahead() -> None:
        with recorder.span("rollout"), recorder.span("grade"):
            time.sleep(0.02)

    with recorder.span("train"):
        thread = threading.Thread(target=sample_ahead, name="ahead")
        thread.start()
        thread.join()
    taken = recorder.take()
    assert [(s.name, s.thread, s.depth) for s in taken] == [
        ("grade", "ahead", 1),
        ("rollout", "ahead", 0),
        ("train", "MainThread", 0),
    ]
    train = taken[-1]
    assert train.own_seconds == train.seconds
    assert own_seconds(taken, "MainThread") == {"train": train.seconds}
    assert own_seconds(taken, "ahead").keys() == {"grade", "rollout"}


def test_a_context_that_is_handed_to_another_thread_opens_no_span_inside_ours() -> None:
    recorder = Recorder()

    def work() -> None:
        with recorder.span("work"):
            pass

    async def hand_over() -> None:
        with recorder.span("waiting"):
            await asyncio.to_thread(work)

    asyncio.run(hand_over())
    work_span, waiting = recorder.take()
    assert (work_span.name, work_span.depth) == ("work", 0)
    assert waiting.own_seconds == waiting.seconds


def test_spans_of_tasks_that_run_side_by_side_stand_in_the_span_that_began_them() -> None:
    recorder = Recorder()

    async def request(number: int) -> None:
        with recorder.span("request", number=number):
            await asyncio.sleep(0.01)
            with recorder.span("reply", number=number):
                await asyncio.sleep(0.01)

    async def main() -> None:
        with recorder.span("rollout"):
            await asyncio.gather(*map(request, range(3)))

    asyncio.run(main())
    taken = recorder.take()
    assert sorted((s.name, s.depth) for s in taken) == [("reply", 2)] * 3 + [("request", 1)] * 3 + [("rollout", 0)]
    requests = [s for s in taken if s.name == "request"]
    replies = {s.facts["number"]: s.seconds for s in taken if s.name == "reply"}
    for s in requests:
        assert s.inside_s == replies[s.facts["number"]]
    assert next(s for s in taken if s.name == "rollout").own_seconds >= 0


def test_many_threads_lose_no_span() -> None:
    recorder = Recorder()

    def work() -> None:
        for _ in range(200):
            with recorder.span("a"), recorder.span("b"):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = recorder.take()
    assert len(taken) == 8 * 200 * 2
    assert all(s.depth == (s.name == "b") for s in taken)


def test_a_full_buffer_loses_the_oldest_and_counts_them(clock: Clock) -> None:
    recorder = Recorder(capacity=3)
    for name in "abcde":
        with recorder.span(name):
            pass
    assert recorder.num_lost == 2
    assert [s.name for s in recorder.take()] == ["c", "d", "e"]
    assert recorder.num_lost == 0


def test_a_span_under_way_waits_for_its_end(clock: Clock) -> None:
    recorder = Recorder()
    with recorder.span("run"):
        with recorder.span("step"):
            pass
        assert [s.name for s in recorder.take()] == ["step"]
    assert [s.name for s in recorder.take()] == ["run"]


def test_spans_are_written_as_one_event_in_the_order_of_their_starts(clock: Clock, tmp_path: Path) -> None:
    recorder = Recorder(rank=1)
    with recorder.span("step"), recorder.span("rollout", groups=4):
        clock.now += 2
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("spans", step=7, **recorder.event(recorder.take()))
    [event] = read_events(tmp_path / "metrics.jsonl")
    assert (event["kind"], event["step"]) == ("spans", 7)
    outer, inner = event["spans"]
    assert (outer["name"], outer["own_seconds"], outer["depth"]) == ("step", 0, 0)
    assert inner == {
        "name": "rollout",
        "start": 500001000.0,
        "end": 500001002.0,
        "seconds": 2,
        "own_seconds": 2,
        "depth": 1,
        "thread": "MainThread",
        "rank": 1,
        "facts": {"groups": 4},
        "error": None,
    }


@pytest.fixture
def process_recorder() -> Iterator[Recorder]:
    RECORDER.take()
    yield RECORDER
    RECORDER.take()


def test_the_process_has_a_recorder_that_needs_no_handing_around(process_recorder: Recorder) -> None:
    with span("anywhere"):
        pass
    assert [s.name for s in process_recorder.take()] == ["anywhere"]
