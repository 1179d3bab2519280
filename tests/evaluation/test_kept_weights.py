"""Weights that wait to be measured, kept by links to what servers load: the same, and no later step changes them."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.evaluation.kept_weights import KeptWeights
from egrc_mega.evaluation.records import Subject
from egrc_mega.manifest import damages
from egrc_mega.sync.disk import DiskSync
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training.measuring import MeasuringLead


class Publishing:
    """A run that publishes its weights, times a factor, by the folder `weights` from which servers load."""

    def __init__(self, run_dir: Path) -> None:
        self.model = write_tiny_qwen2(run_dir.with_name("model"))
        self.folder, self.kept = run_dir / "weights", KeptWeights(run_dir)
        self.architecture = read_architecture(self.model)
        servers: Any = SimpleNamespace(update_weights=lambda _weights: None)
        self.sync = DiskSync(self.folder, self.model, servers)

    def tensors(self, factor: float) -> list[tuple[str, torch.Tensor]]:
        state = load_file(self.model / "model.safetensors")
        return [(name, state[name] * factor) for name, _shape in self.architecture.hf_shapes()]

    def publish(self, version: str, factor: float) -> Path:
        self.sync.publish(iter(self.tensors(factor)), self.architecture, torch.float32, version)
        return self.folder / version

    def write(self, step: int, factor: float) -> str:
        tensors = iter(self.tensors(factor))
        return self.kept.write(step, tensors, architecture=self.architecture, source=self.model, dtype=torch.float32)


@pytest.fixture
def run(tmp_path: Path) -> Publishing:
    return Publishing(tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_linked_is_what_would_have_been_written_and_takes_no_room(run: Publishing) -> None:
    served = run.publish("v2", 0.5)
    assert run.kept.link(2, served) == run.write(4, 0.5)
    assert contents(run.kept.path(2)) == contents(run.kept.path(4)) == contents(served)
    assert os.path.samefile(run.kept.path(2) / "model.safetensors", served / "model.safetensors")


@pytest.mark.parametrize("version", ["v3", "v2"])  # the next step's; a resumed run comes to the same one again
def test_nothing_that_is_published_later_changes_what_is_kept(version: str, run: Publishing) -> None:
    weights = run.kept.link(2, run.publish("v2", 0.5))
    assert weights is not None
    before = contents(run.kept.path(2))
    run.publish(version, 0.25)
    assert [path.name for path in run.folder.iterdir()] == [version]
    assert contents(run.kept.path(2)) == before and damages(run.kept.path(2)) == []
    assert run.kept.has(Subject(label="a", ordinal=0, step=2, weights=weights, within=True))
    # nor does a removal reach what servers load
    run.kept.link(3, run.folder / version)
    run.kept.remove(3)
    assert damages(run.folder / version) == []


def test_weights_of_a_step_that_is_come_to_again_take_the_place_of_those_before(run: Publishing) -> None:
    first = run.kept.link(2, run.publish("v2", 0.5))
    assert run.kept.link(2, run.publish("v2", 0.25)) == run.write(3, 0.25) != first
    assert contents(run.kept.path(2)) == contents(run.kept.path(3))


@pytest.fixture
def lead_of(run: Publishing) -> Callable[[str], MeasuringLead]:
    def lead(transport: str) -> MeasuringLead:
        lead = MeasuringLead()
        parts: Any = SimpleNamespace(sync=SimpleNamespace(transport=transport))
        folder: Any = SimpleNamespace(path=run.folder.parent, weights=run.folder)
        lead.config, lead.folder = parts, folder
        return lead

    return lead


def test_where_servers_load_from_no_folder_or_none_that_can_be_linked_weights_are_written(
    run: Publishing, lead_of: Callable[[str], MeasuringLead], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.publish("v2", 0.5)
    assert lead_of("disk").keep_served(2, "v2") == run.write(4, 0.5).encode()
    # of a run that has been resumed with another transport
    assert lead_of("distributed").keep_served(3, "v2") is None

    def on_another_disk(*_names: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", on_another_disk)
    assert lead_of("disk").keep_served(3, "v2") is None
    assert sorted(path.name for path in run.kept.folder.iterdir()) == ["step_000002", "step_000004"]
