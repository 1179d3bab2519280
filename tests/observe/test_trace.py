"""The trace of a step: whole, nested, of one clock, and of that step only; and the files that it is made of."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from egrc_mega.errors import RunError
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.span_log import SERVERS, SpanLog, rank_name, ranks_of, read_spans
from egrc_mega.observe.trace import FIRST_SERVER, Slice, lanes, write_trace

T0 = 1_700_000_000.0


def span(name: str, start: float, end: float, thread: str = "MainThread", **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "start": T0 + start,
        "end": T0 + end,
        "seconds": end - start,
        "thread": thread,
        "facts": facts,
        "error": None,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two steps of two ranks and one server, whose requests overlap; the second step was taken again by a resume."""
    with EventLog(tmp_path / "metrics.jsonl") as log, SpanLog(tmp_path, rank_name(1)) as rank_1:
        log.write("run")
        log.write("spans", step=1, spans=[span("rollout", 0, 2), span("grade", 1, 1.5), span("train", 2, 3)])
        rank_1.write(1, spans=[span("wait", 0, 2), span("train", 2, 3)])
        log.write("spans", step=2, spans=[span("checkpoint", 3.5, 4), span("train", 6, 7), span("ahead", 2.5, 5, "a")])
        log.write("resume")
        log.write("spans", step=2, spans=[span("rollout", 20, 22), span("train", 22, 23) | {"error": "RunError"}])
        rank_1.write(2, spans=[span("train", 22.1, 22.9, step=1)])
    with SpanLog(tmp_path, SERVERS) as servers:
        states = [(T0 + 19, "starting"), (T0 + 20.5, "serving")]
        requests = [
            (T0 + 20.5, T0 + 21, "a", {"tokens": 7}),
            (T0 + 20.6, T0 + 20.8, "b", {}),
            (T0 + 21, T0 + 22, "c", {}),
        ]
        early = [(T0 + 1, T0 + 2, "first", {})]
        server = {"number": 0, "url": "http://[::1]:1"}
        servers.write(1, servers=[server | {"states": [], "requests": early}])
        servers.write(2, servers=[server | {"states": states, "requests": requests}])
    return tmp_path


def shown(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    """Process and thread -> name, start and end of each bar, in microseconds."""
    events = orjson.loads(path.read_bytes())["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found: dict[str, list[tuple[str, float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            key = f"{processes[event['pid']]} / {threads[event['pid'], event['tid']]}"
            found.setdefault(key, []).append((event["name"], event["ts"], event["ts"] + event["dur"]))
    return found


def test_a_trace_shows_ranks_and_servers_of_the_last_taking_of_the_step(run: Path) -> None:
    path, told = write_trace(run, 2, None)
    assert path == run / "trace_step_000002.json"
    assert told == "step 2: 3.00 s, 8 spans of 2 ranks and 1 server"
    assert shown(path) == {
        "rank 0 / MainThread": [("rollout", 0, 2e6), ("train", 2e6, 3e6)],
        "rank 1 / MainThread": [("train", pytest.approx(2.1e6), pytest.approx(2.9e6))],
        "server 0 (http://[::1]:1) / state": [("starting", 0, 0.5e6), ("serving", 0.5e6, 3e6)],
        # as many rows as there were requests at a time; none lies within another
        "server 0 (http://[::1]:1) / request": [("a", 0.5e6, 1e6), ("c", 1e6, 2e6)],
        "server 0 (http://[::1]:1) / request 1": [("b", pytest.approx(0.6e6), pytest.approx(0.8e6))],
    }
    events = orjson.loads(path.read_bytes())["traceEvents"]
    assert {"error": "RunError"} in [event["args"] for event in events] and {"tokens": 7} in [e["args"] for e in events]
    # the numbers 0 mean the idle process to some viewers, and a thread's number is taken for one of the machine's
    assert {event["pid"] for event in events} == {1, 2, FIRST_SERVER}
    bars = [event for event in events if event["ph"] == "X"]
    assert len({event["tid"] for event in bars}) == len({(event["pid"], event["tid"]) for event in bars}) == 5


def test_what_overlaps_the_step_is_whole_and_a_step_begins_when_the_one_before_was_recorded(
    run: Path, tmp_path: Path
) -> None:
    log = run / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    path, _ = write_trace(run, None, tmp_path / "mine.json")
    found = shown(path)
    assert found["rank 0 / MainThread"] == [("checkpoint", 0.5e6, 1e6), ("train", 3e6, 4e6)]
    assert found["rank 0 / a"] == [("ahead", -0.5e6, 2e6)]
    assert path == tmp_path / "mine.json"


def test_spans_of_one_thread_that_do_not_nest_get_a_row_of_their_own() -> None:
    a, b, c = (Slice(name=n, start=s, end=e) for n, s, e in (("a", 0, 4), ("b", 1, 5), ("c", 2, 3)))
    assert lanes([c, b, a], may_nest=True) == [[a, c], [b]]
    assert lanes([c, b, a], may_nest=False) == [[a], [b], [c]]


@pytest.mark.parametrize(
    ("kept", "message"), [(0, "holds no run"), (1, "recorded no step yet"), (3, "no step 7; it has 1-2")]
)
def test_a_step_that_is_not_there_is_said_with_those_that_are(run: Path, kept: int, message: str) -> None:
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.unlink()
    if kept:
        log.write_bytes(b"".join(lines[:kept]))
    with pytest.raises(RunError, match=message):
        write_trace(run, 7, None)


def test_a_full_file_is_set_aside_and_still_read(tmp_path: Path) -> None:
    with SpanLog(tmp_path, rank_name(3), max_bytes=100) as log:
        for step in range(1, 5):
            log.write(step, spans=["x" * 80])
    assert [event["step"] for event in read_spans(tmp_path, rank_name(3))] == [3, 4]
    assert ranks_of(tmp_path) == [3] and len(list((tmp_path / "spans").iterdir())) == 2


def test_spans_that_cannot_be_written_are_one_line_and_end_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spans").write_text("a file in the folder's place")
    with SpanLog(tmp_path, SERVERS) as log:
        log.write(1, servers=[])
        log.write(2, servers=[])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"egrc: {tmp_path}/spans/servers.jsonl cannot be written (")
