"""A whole run whose servers load a step's weights behind the next step: what overlaps, what waits, and where errors go.

The verbs are the true ones, between fakes that take notes; events force the order, so nothing here depends on time.
"""

import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.errors import RolloutError
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.spans import RECORDER
from egrc_mega.observe.trace import write_trace
from egrc_mega.testing.fake_run import FakeRun, Notes

pytestmark = pytest.mark.usefixtures("world_of_one")

LONG_S = 60.0
STEPS = 4


class Run(FakeRun):
    """A run whose weights are in flight, after the first ones; `load` is what servers do with a version then."""

    load: Callable[[str], None]

    def _start(self) -> None:
        super()._start()
        assert self.lead
        self.lead.publisher.in_flight = True
        self.lead.transport.load = self.load  # type: ignore[attr-defined]


def run_of(tmp_path: Path, load: Callable[[str], None], **sections: Any) -> Run:
    fields: dict[str, Any] = {
        "run": {"dir": tmp_path / "run"},
        "model": {"path": tmp_path},
        "data": {"train": tmp_path / "train.jsonl"},
        "evaluation": {"data": tmp_path / "eval.jsonl"},
        "stages": [{"method": "compress", "steps": STEPS, "clip_len": 8}],
        "checkpoint": {"every": 1},
    }
    run = Run(Config(**(fields | sections)), Notes())
    run.load = load
    return run


def go(monkeypatch: pytest.MonkeyPatch, run: FakeRun) -> None:
    """The true loop."""
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    train_module.train(run.config, resume=run.resume)


def behind_the_next_step(run: Run) -> Callable[[str], None]:
    """Loads a version once the next step trains; the last one, once nothing more is to come."""
    trains = {number: threading.Event() for number in range(1, STEPS + 1)}
    update = run.fake_policy.update

    def train(*arguments: Any) -> Any:
        trains[run.fake_policy.num_updates + 1].set()
        return update(*arguments)

    run.fake_policy.update = train  # type: ignore[method-assign]

    def load(version: str) -> None:
        following = trains.get(int(version.removeprefix("v")) + 1)
        assert following is None or following.wait(LONG_S), f"{version} holds up the step after it"
        run.notes.append(("loaded", version))

    return load


def test_servers_load_a_steps_weights_while_the_next_step_trains_and_the_trace_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, lambda version: None)
    run.load = behind_the_next_step(run)
    RECORDER.take()
    go(monkeypatch, run)
    assert [note[0] for note in run.notes.of("loaded")] == [f"v{number}" for number in range(1, STEPS + 1)]
    (tmp_path / "run").mkdir()
    with EventLog(tmp_path / "run/metrics.jsonl") as log:
        log.write("run")
        for (facts,) in run.notes.of("spans"):
            log.write("spans", **facts)
    for step in range(2, STEPS + 1):
        sync, train = sync_and_train(write_trace(tmp_path / "run", step, None)[0], f"v{step - 1}")
        assert sync[0] < train[0] < sync[1], f"the sync of step {step - 1} does not reach into the training of the next"


def sync_and_train(trace: Path, version: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Begin and end of the version's loading, and of the step's training, which are in rows of their own."""
    bars = [event for event in orjson.loads(trace.read_bytes())["traceEvents"] if event["ph"] == "X"]
    [sync] = [bar for bar in bars if bar["args"] == {"version": version}]
    train = [bar for bar in bars if bar["name"] == "train"][-1]
    assert sync["name"] == "sync" and sync["tid"] != train["tid"]
    return (sync["ts"], sync["ts"] + sync["dur"]), (train["ts"], train["ts"] + train["dur"])


def test_a_version_is_with_the_servers_before_the_next_is_published_anything_is_measured_or_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"data": tmp_path / "eval.jsonl", "every": 2}
    run = run_of(tmp_path, lambda version: run.notes.append(("loaded", version)), evaluation=evaluation)
    go(monkeypatch, run)
    told = [note[:2] for note in run.notes if note[0] in ("publish", "loaded")]
    assert told[1:] == [(kind, f"v{number}") for number in range(1, STEPS + 1) for kind in ("publish", "loaded")]
    names = [note[0] for note in run.notes if note[0] in ("publish", "loaded", "point", "export")]
    before = [first for first, second in pairwise(names) if second in ("point", "export")]
    assert before == ["publish", "loaded", "loaded", "point"], "the first weights are not in flight"


@pytest.mark.parametrize("version", ["v1", "v2", f"v{STEPS}"])
def test_an_update_that_fails_in_flight_ends_the_run_and_what_is_committed_can_be_resumed(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(loaded: str) -> None:
        if loaded == version:
            raise RolloutError(f"weights {version!r} did not reach every server")

    run = run_of(tmp_path, load)
    with pytest.raises(RolloutError, match=f"weights '{version}' did not reach every server"):
        go(monkeypatch, run)
    number = int(version.removeprefix("v"))
    assert max(run.fake_store.states, default=0) in (number - 1, number)
    assert f"v{number + 1}" not in [note[0] for note in run.notes.of("publish")]
    assert not run.notes.of("export")


def test_other_ranks_learn_of_lost_weights_after_they_have_gathered_the_next(tmp_path: Path) -> None:
    run = run_of(tmp_path, lambda version: None)
    gathered: list[str] = []

    def lost() -> None:
        raise RolloutError("lost")

    with run:
        assert run.lead
        run.lead.publisher = SimpleNamespace(settle=lost, check=lost)  # type: ignore[assignment]
        run.policy.export_hf = lambda: (gathered.append(name) or (name, None) for name in ("a", "b"))
        with pytest.raises(RolloutError, match="lost"):
            run.hand_out_weights(lambda lead, tensors: None)
        assert gathered == ["a", "b"]
        with pytest.raises(RolloutError, match="lost"):
            run.on_lead(lambda lead: pytest.fail("nothing is done on lost weights"))
