"""Weights on their way while the trainer goes on: one version at a time, no error is lost. Events force the order."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.observe.spans import RECORDER
from egrc_mega.sync import publisher as module
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.publisher import Publisher
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.tiny_model import write_tiny_qwen2

LONG_S = 60.0


class Scripted:
    """Takes notes; a version is with the servers once `arrive` is set, unless it fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.notes: list[str] = []
        self.error = error
        self.arrive = threading.Event()

    def publish(self, tensors: Any, architecture: Any, dtype: Any, version: str) -> None:
        self.stage(tensors, architecture, dtype, version)()

    def stage(self, tensors: Any, architecture: Any, dtype: Any, version: str) -> Callable[[], None]:
        self.notes.append(f"{version} staged, of {list(tensors)}")

        def deliver() -> None:
            assert self.arrive.wait(LONG_S)
            if self.error:
                raise self.error
            self.notes.append(f"{version} arrived")

        return deliver


class Telling(Publisher):
    """Lets what is under way arrive as soon as somebody waits for it."""

    def settle(self) -> None:
        assert isinstance(self.transport, Scripted)
        self.transport.arrive.set()
        super().settle()


def publish(publisher: Publisher, version: str) -> None:
    nothing: Any = None
    publisher.publish(iter([("w", 1)]), nothing, nothing, version)  # type: ignore[list-item]


def test_in_flight_the_tensors_are_taken_at_once_and_the_servers_have_them_later() -> None:
    transport = Scripted()
    publisher = Publisher(transport, in_flight=True)
    publish(publisher, "v1")
    publisher.check()
    assert transport.notes == ["v1 staged, of [('w', 1)]"]
    transport.arrive.set()
    publisher.settle()
    assert transport.notes[1:] == ["v1 arrived"]


def test_otherwise_a_version_is_with_the_servers_when_publish_returns() -> None:
    transport = Scripted()
    transport.arrive.set()
    publisher = Publisher(transport)
    publish(publisher, "v1")
    assert transport.notes[1:] == ["v1 arrived"]
    publisher.settle()
    publisher.close()


def test_nothing_of_a_version_is_written_before_the_one_before_it_has_arrived() -> None:
    transport = Scripted()
    publisher = Telling(transport, in_flight=True)
    for version in ("v1", "v2"):
        transport.arrive.clear()
        publish(publisher, version)
    assert transport.notes[1:3] == ["v1 arrived", "v2 staged, of [('w', 1)]"]
    publisher.settle()


@pytest.mark.parametrize("verb", ["settle", "check", "publish"])
def test_an_update_that_failed_in_flight_is_the_error_of_whatever_comes_next(verb: str) -> None:
    transport = Scripted(RolloutError("v1 did not reach every server"))
    publisher = Publisher(transport, in_flight=True)
    publish(publisher, "v1")
    transport.arrive.set()
    for thread in threading.enumerate():
        if thread.name == "sync":
            thread.join(LONG_S)
    calls = {"settle": publisher.settle, "check": publisher.check, "publish": lambda: publish(publisher, "v2")}
    for _ in range(2):  # also of what comes after that
        with pytest.raises(RolloutError, match="v1 did not reach every server"):
            calls[verb]()
    assert len(transport.notes) == 1, "nothing of the next version may be written"


def test_an_update_that_fails_before_it_is_in_flight_is_an_error_there_and_then() -> None:
    class Full(Scripted):
        def stage(self, *_more: Any) -> Callable[[], None]:
            raise OSError("no space")

    publisher = Publisher(Full(), in_flight=True)
    with pytest.raises(OSError, match="no space"):
        publish(publisher, "v1")
    publisher.settle()


def test_a_run_that_ends_early_waits_for_no_update_for_long_and_hears_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    transport = Scripted(RolloutError("lost"))
    publisher = Publisher(transport, in_flight=True)
    publisher.close()
    publish(publisher, "v1")
    publisher.close()
    assert not transport.arrive.is_set()
    transport.arrive.set()
    monkeypatch.setattr(module, "PATIENCE_S", LONG_S)
    publisher.close()


def test_the_time_in_flight_is_a_span_of_its_own_thread() -> None:
    RECORDER.take()
    publisher = Telling(Scripted(), in_flight=True)
    publish(publisher, "v7")
    publisher.settle()
    [found] = [span for span in RECORDER.take() if span.name == "sync"]
    assert (found.thread, found.facts, found.error) == ("sync", {"version": "v7"}, None)


def test_checksums_are_of_what_was_staged_and_are_compared_behind_the_trainers_back(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    architecture, state = read_architecture(model), load_file(model / "model.safetensors")
    told: list[str] = []
    may_load = threading.Event()

    def load(weights: Any) -> None:
        assert may_load.wait(LONG_S)
        told.append(weights.version)

    fleet: Any = SimpleNamespace(num_ranks=lambda: [1], checksums=lambda: {"http://0": [{}]}, update_weights=load)
    sync = Verified(DiskSync(tmp_path / "weights", model, fleet), fleet, 1, "cpu")
    publisher = Publisher(sync, in_flight=True)
    tensors = {name: state[name] for name, _shape in architecture.hf_shapes() if name in state}
    publisher.publish(iter(tensors.items()), architecture, torch.float32, "v1")
    written = load_file(tmp_path / "weights/v1/model.safetensors")
    for tensor in tensors.values():  # the next optimizer step
        tensor.zero_()
    assert all(torch.equal(written[name], before) for name, before in load_file(model / "model.safetensors").items())
    assert told == []
    may_load.set()
    with pytest.raises(RolloutError, match=r"http://0 does not serve weights v1 as they are: .* the trainer's is"):
        publisher.settle()
    assert told == ["v1"]
