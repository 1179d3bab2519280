"""The export at a run's end shows how far it is, as evaluations do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.training.lead import Lead


def test_an_export_tells_a_bar_of_every_tensor_until_all_its_megabytes_are_written(
    base_model: Path, tmp_path: Path
) -> None:
    architecture = read_architecture(base_model)
    weights = load_file(base_model / "model.safetensors")
    told: list[float] = []
    seen: list[float] = []
    bars: list[tuple[str, float]] = []

    @contextmanager
    def bar(doing: str, total: float) -> Iterator[Callable[[float], None]]:
        bars.append((doing, total))
        yield told.append

    def drawn() -> Iterator[tuple[str, torch.Tensor]]:
        for name, _shape in architecture.hf_shapes():
            seen.append(sum(told))
            yield name, weights[name]

    lead: Any = SimpleNamespace(
        folder=SimpleNamespace(export=tmp_path / "export"),
        printer=SimpleNamespace(bar=bar),
        events=SimpleNamespace(write=lambda *_, **__: None),
    )
    policy: Any = SimpleNamespace(architecture=architecture, dtype=torch.float32, companions=base_model)
    Lead.export(cast(Lead, lead), drawn(), policy)
    megabytes = sum(weight.numel() for weight in weights.values()) * 4 / 1e6
    assert bars == [("exporting, in MB", pytest.approx(megabytes))]
    assert sum(told) == pytest.approx(megabytes)
    # while they are written, not at the end
    assert 0 == seen[0] < seen[len(seen) // 2] < seen[-1] < megabytes
