"""Each tracker gets a run's numbers once, in its own library's files, and none of them can harm the run."""

import json
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from egrc_mega.cli.track import track
from egrc_mega.errors import ConfigError, RunError
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.follow import follow
from egrc_mega.sections.run import TrackerName
from egrc_mega.testing.records import make_record
from egrc_mega.trackers import children
from egrc_mega.trackers.children import Trackers
from egrc_mega.trackers.process import FOLDER, feed
from egrc_mega.trackers.tracker import TRACKERS, require_installed
from egrc_mega.trackers.values import values_of

pytestmark = pytest.mark.long_file
NAMES = get_args(TrackerName)
EVALUATION = {"label": "base", "step": 0, "temperature": 0.6, "accuracy": 0.9, "mean_length": 100.0, "l_acc": None}
Numbers = dict[tuple[str, int], float]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"seed": 1}, "observe": {"project": "lengths"}}))
    write_events(tmp_path, 1, 2, 3)
    return tmp_path


def write_events(run: Path, *steps: int) -> None:
    with EventLog(run / "metrics.jsonl") as events:
        events.write("run", seed=1)
        for step in steps:
            events.write("step", **make_record(step, length=100.0 - step))
        events.write("evaluation", **EVALUATION)


def needs(name: str) -> None:
    if find_spec(TRACKERS[name][1]) is None:  # type: ignore[index]
        pytest.skip(f"{TRACKERS[name][1]} is not installed")  # type: ignore[index]


def send(run: Path, name: str) -> None:
    """As a run does, in a process of its own, whose stdin ends at once."""
    command = [sys.executable, "-P", "-m", "egrc_mega.trackers.process", name, str(run)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def read_tensorboard(run: Path) -> Numbers:
    from tensorboardX.proto.event_pb2 import Event

    found: Numbers = {}
    for path in sorted((run / FOLDER / "tensorboard").glob("events.*")):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    assert (value.tag, event.step) not in found, "sent twice"
                    found[value.tag, event.step] = value.simple_value
    return found


def wandb_records(content: bytes) -> Iterator[bytes]:
    """What an offline run holds: a header, then LevelDB's log, whose records may go over several blocks."""
    block, head, place, record = 2**15, 7, 7, b""
    while place + head <= len(content):
        if block - place % block < head:  # the rest of a block that is too short is filled up
            place += block - place % block
            continue
        _check, size, kind = struct.unpack("<IHB", content[place : place + head])
        record += content[place + head : place + head + size]
        place += head + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def read_wandb(run: Path) -> Numbers:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Numbers = {}
    for path in sorted((run / FOLDER / "wandb").rglob("*.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("history"):
                items = record.history.item
                row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
                step = row.get("_step", record.history.step.num)
                found |= {(name, step): value for name, value in row.items() if not name.startswith("_")}
    return found


def read_trackio(run: Path) -> Numbers:
    (path,) = [path for path in (run / FOLDER / "trackio").rglob("*.db") if path.stem == "lengths"]
    found: Numbers = {}
    with sqlite3.connect(path) as database:
        for step, row in database.execute("select step, metrics from metrics"):
            found |= {(name, step): value for name, value in json.loads(row).items()}
    return found


READERS: dict[str, Callable[[Path], Numbers]] = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "trackio": read_trackio,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_gets_every_number_under_its_step_and_a_resumed_run_sends_the_rest(run: Path, name: str) -> None:
    needs(name)
    send(run, name)
    write_events(run, 4)
    send(run, name)
    found = READERS[name](run)
    assert [found["train/length", step] for step in (1, 2, 3, 4)] == [99.0, 98.0, 97.0, 96.0]
    record = make_record(2, length=98.0)
    assert found["train/entropy", 2] == pytest.approx(record["entropy"])
    assert any(metric == "eval/T0.6/accuracy" and value == pytest.approx(0.9) for (metric, _), value in found.items())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_fails_is_one_line_and_the_run_goes_on(run: Path, name: str) -> None:
    needs(name)
    (run / FOLDER).mkdir()
    (run / FOLDER / name).write_text("a file where its folder should be")
    lines: list[str] = []
    with Trackers((name,), run, lines.append) as trackers:  # type: ignore[arg-type]
        trackers.children[name].wait(timeout=240)  # type: ignore[index]
        trackers.check()
        trackers.check()
    (line,) = lines
    assert line.startswith(f"warning: tracker {name} has ended with exit code 1") and f"--to {name}" in line


def test_a_tracker_that_hangs_is_ended_soon_after_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LAST_WORDS_S", 0.3)
    lines: list[str] = []
    with Trackers(("tensorboard",), run, lines.append) as trackers:
        child = trackers.children["tensorboard"]
        child.send_signal(signal.SIGSTOP)
    assert child.returncode == -signal.SIGKILL
    assert lines[0].startswith("warning: tracker tensorboard was not done 0.3 s after the run's end")


class Sink:
    """Takes notes; fails at a step."""

    def __init__(self, fails_at: int = 0) -> None:
        self.fails_at, self.steps, self.is_closed = fails_at, list[int](), False

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the network")
        self.steps.append(step)

    def close(self) -> None:
        self.is_closed = True


def fed(run: Path, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Sink:
    monkeypatch.setattr("egrc_mega.trackers.process.open_tracker", lambda *_: sink)
    over = threading.Event()
    over.set()
    feed("tensorboard", run, over)
    return sink


def test_what_a_failed_tracker_has_not_sent_is_sent_the_next_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Sink(fails_at=2)
    with pytest.raises(ConnectionError):
        fed(run, first, monkeypatch)
    assert (first.steps, first.is_closed) == ([1], True)
    assert fed(run, Sink(), monkeypatch).steps == [2, 3, 3]
    assert fed(run, Sink(), monkeypatch).steps == []


def test_what_a_trackers_library_cannot_do_is_one_line_of_the_command(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egrc_mega.trackers.process.open_tracker", lambda *_: Sink(fails_at=1))
    with pytest.raises(RunError, match=r"^--to tensorboard: ConnectionError: the network; give the command again"):
        track(run, "tensorboard")


def test_steps_that_come_again_after_a_resume_never_fall(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(run, 2, 3, 4)
    assert fed(run, Sink(), monkeypatch).steps == [1, 2, 3, 3, 3, 3, 4, 4]
    write_events(run, 3, 4, 5)
    assert fed(run, Sink(), monkeypatch).steps == [4, 4, 5, 5]


def test_a_step_and_an_evaluation_are_numbers_and_nothing_else_is() -> None:
    record = {"kind": "step", "time": 1.0, "step": 3, "total_steps": 9, "stage": "compress", "updated": True}
    record |= {"loss": None, "length": 5, "entropy": float("nan"), "lost": [1], "reward": 0.5}
    assert values_of(record) == (3, {"train/updated": 1.0, "train/length": 5.0, "train/reward": 0.5})
    evaluation = {"kind": "evaluation", **EVALUATION, "step": 7}
    assert values_of(evaluation) == (7, {"eval/step": 7.0, "eval/T0.6/accuracy": 0.9, "eval/T0.6/mean_length": 100.0})
    assert values_of({"kind": "spans", "step": 1, "seconds": 2.0}) is None


def test_events_are_followed_while_they_are_written_and_torn_ones_left_out(tmp_path: Path) -> None:
    path, over = tmp_path / "metrics.jsonl", threading.Event()
    found: list[tuple[dict[str, Any], int]] = []

    def read() -> Iterator[tuple[dict[str, Any], int]]:
        yield from follow(path, 0, over.is_set)

    events = read()
    with path.open("ab", buffering=0) as file:
        file.write(b'{"a": 1}\n{"a"')
        found.append(next(events))
        file.write(b': 2}\nnot JSON\n[3]\n{"a": 4}\n{"a": 5')
        found += [next(events), next(events)]
    over.set()
    assert list(events) == []
    assert [event for event, _position in found] == [{"a": 1}, {"a": 2}, {"a": 4}]
    again = follow(path, found[1][1], over.is_set)
    assert [event for event, _position in again] == [{"a": 4}]


def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egrc_mega.trackers.tracker.find_spec", lambda _package: None)
    with pytest.raises(ConfigError, match=r"observe\.trackers: wandb needs the package wandb; run pip install 'egrc"):
        require_installed("wandb", "observe.trackers")
