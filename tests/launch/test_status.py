"""`egrc status` and `egrc stop`, of folders as runs leave them; whole runs are stopped in test_launchers.py."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from egrc_mega.cli.main import app
from egrc_mega.errors import RunError
from egrc_mega.launch.status import lines, look
from egrc_mega.launch.stop import stop
from egrc_mega.lock import Holder, Lock
from egrc_mega.observe.events import EventLog
from egrc_mega.run_folder import LOCK, STOP

POINT = {"set": "", "temperature": 0.6, "mean_length": 41.5}


def write(run: Path, *events: tuple[str, dict[str, Any]]) -> Path:
    with EventLog(run / "metrics.jsonl") as log:
        for kind, facts in events:
            log.write(kind, **facts)
    return run


def step(number: int, stage: str = "compress") -> tuple[str, dict[str, Any]]:
    return "step", {"step": number, "total_steps": 9, "stage": stage, "step_in_stage": number}


BEGUN = (
    ("run", {"seed": 1}),
    ("processes", {"hosts": {"node0": [11, 12], "node1": [7, 8]}, "servers": ["http://10.0.0.3:30000"]}),
    ("evaluation", {"label": "base", "step": 0, "accuracy": 0.5, **POINT}),
    step(1),
    step(2),
    ("committed", {"step": 2, "seconds": 0.1}),
    ("evaluation", {"label": "compress", "step": 2, "accuracy": 0.875, **POINT}),
    ("evaluation", {"label": "compress", "step": 2, "accuracy": None, **POINT, "set": "own"}),
    step(3, "explore"),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path, *BEGUN)


@pytest.fixture
def held(run: Path) -> Iterator[Path]:
    """The run goes on: this very process holds it."""
    lock = Lock.take(run / LOCK)
    assert lock is not None
    yield run
    lock.release()


def left_by(run: Path, host: str) -> None:
    """Somebody else has held the folder, and has ended."""
    holder = replace(Holder.this_process(), host=host, pid=4711)
    (run / LOCK).write_text(json.dumps(asdict(holder)))


def test_a_run_that_goes_on_says_where_it_is_and_who_and_what_takes_part(held: Path) -> None:
    status = look(held)
    assert status.state == "running" and f"on {socket.gethostname()}" in str(status.holder)
    assert (status.step, status.total_steps, status.stage, status.step_in_stage) == (3, 9, "explore", 3)
    assert status.committed_step == 2 and status.event == "step"
    assert status.committed_time is not None and status.committed_time <= time.time()
    assert status.event_age_s is not None and status.event_age_s >= 0
    assert status.hosts == {"node0": [11, 12], "node1": [7, 8]} and status.servers == ["http://10.0.0.3:30000"]
    assert [(row["label"], row["accuracy"], row["set"]) for row in status.evaluations] == [
        ("compress", 0.875, ""),
        ("compress", None, "own"),
    ]


def test_the_page_for_people_has_a_row_for_each(held: Path) -> None:
    rows = [line.split(None, 1) for line in lines(look(held)) if not line.startswith("last event")]
    assert [name for name, _ in rows] == [
        *("run", "rank", "step", "commit", "ranks", "ranks", "server", "evaluation", "evaluation"),
    ]
    texts = [text for _, text in rows]
    assert texts[0] == f"{held}: running"
    assert texts[2] == "3 of at most 9, stage explore, its step 3"
    assert texts[3].startswith("step 2, 0:0") and texts[3].endswith(" ago")
    assert texts[4:7] == ["node0: processes 11 12", "node1: processes 7 8", "http://10.0.0.3:30000"]
    assert texts[7:] == [
        "compress, step 2, T 0.6: accuracy 87.5%, mean length 41.5",
        "compress, step 2 on own, T 0.6: accuracy -, mean length 41.5",
    ]


END = ("end", {"step": 9})
STOPPED = ("stopped", {"step": 3, "text": "stopped by egrc stop after step 3, which is committed"})
ALARM = ("stop", {"step": 3, "reason": "all responses are truncated"})
RULE = ("stop", {"step": 3, "reason": "evaluation.stop.patience"})
LEFT = ("left", {"attempt": 3, "reason": "it has died 3 times in step 4"})


@pytest.mark.parametrize(
    ("events", "state", "reason"),
    [
        ([END], "finished", None),
        ([RULE, END], "finished", "evaluation.stop.patience"),
        ([STOPPED], "stopped", STOPPED[1]["text"]),
        ([ALARM], "stopped", ALARM[1]["reason"]),
        ([], "crashed", None),
        ([LEFT], "crashed", LEFT[1]["reason"]),
        ([STOPPED, ("resume", {})], "crashed", None),
        ([STOPPED, ("resume", {}), step(4), END], "finished", None),
        ([END, step(4)], "crashed", None),
        ([STOPPED, ("committed", {"step": 3})], "stopped", STOPPED[1]["text"]),
    ],
)
def test_what_became_of_a_run_that_nobody_holds_is_what_it_has_said_last(
    events: list, state: str, reason: str | None, run: Path
) -> None:
    status = look(write(run, *events))
    assert (status.state, status.reason) == (state, reason)


def test_a_run_that_was_stopped_and_goes_on_is_running(held: Path) -> None:
    assert look(write(held, STOPPED, ("resume", {}))).state == "running"


def test_a_run_before_its_first_event_is_running_and_a_folder_without_one_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        look(tmp_path)
    lock = Lock.take(tmp_path / LOCK)
    assert lock is not None
    status = look(tmp_path)
    lock.release()
    assert (status.state, status.step, status.event) == ("running", 0, None)
    assert "none is done yet" in "\n".join(lines(status))


def test_restarts_are_counted_and_torn_lines_left_out(run: Path) -> None:
    write(run, ("restart", {"attempt": 1, "reason": "signal 9 in step 4"}), ("resume", {}))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind":"end","st')
    status = look(run)
    assert (status.restarts, status.state) == (1, "crashed")


def test_the_command_prints_json_and_tells_a_crash_by_its_exit_code(run: Path) -> None:
    crashed = CliRunner().invoke(app, ["status", str(run), "--json"])
    told = json.loads(crashed.output)
    assert crashed.exit_code == 1 and told["state"] == "crashed" and told["hosts"]["node1"] == [7, 8]
    finished = CliRunner().invoke(app, ["status", str(write(run, END))])
    assert finished.exit_code == 0 and f"{run}: finished" in finished.output


def test_a_stop_is_asked_for_by_a_file_and_shown_until_it_comes(held: Path) -> None:
    assert not look(held).is_asked_to_stop
    said = stop(held)
    assert "ends after the step under way (4), which is committed" in said
    assert (held / STOP).exists() and look(held).is_asked_to_stop
    assert "it was asked to stop" in next(lines(look(held)))


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([END], "is not running: it is finished after step 3"),
        ([STOPPED], "is not running: it is stopped after step 3 (stopped by egrc stop"),
        ([], "is not running: it is crashed after step 3"),
    ],
)
def test_a_run_that_is_over_is_not_asked_and_said_to_be_over(events: list, words: str, run: Path) -> None:
    left_by(run, socket.gethostname())
    with pytest.raises(RunError) as error:
        stop(write(run, *events))
    assert words in str(error.value)
    assert not (run / STOP).exists()


def test_a_run_between_two_attempts_and_one_of_another_machine_are_asked(run: Path, tmp_path: Path) -> None:
    left_by(run, "another")  # whose lock is not seen from here on every file system
    assert "nobody holds" in stop(run) and "process 4711 on another" in stop(run)
    (run / STOP).unlink()
    left_by(run, socket.gethostname())
    assert "its supervisor" in stop(write(run, ("restart", {"attempt": 1, "reason": "signal 9 in step 4"})))
    assert (run / STOP).exists()
