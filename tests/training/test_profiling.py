"""Profiles by ranges of steps: begun and ended in time, whole whatever ends the run, and never at its cost."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from egrc_mega.sections.run import ObserveSection
from egrc_mega.training import profiling
from egrc_mega.training.profiling import StepProfiler


def take_steps(profiler: StepProfiler, *steps: int) -> None:
    for step in steps:
        profiler.begin(step)
        torch.ones(step) + 1
        profiler.end(step)


def shapes_of(path: Path) -> int:
    """How many additions the profile saw."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sum(event.get("name") == "aten::add" for event in events)


@pytest.mark.parametrize(
    ("steps", "name", "count"),
    [
        ((1, 2, 3, 4, 5), "trace_steps_2-4_rank_00000.json.gz", 3),
        ((4, 5), "trace_steps_4-4_rank_00000.json.gz", 1),  # resumed within the range
        ((1, 2, 3), "trace_steps_2-3_rank_00000.json.gz", 2),  # ended within it
    ],
)
def test_a_profile_has_the_steps_of_its_range(steps: tuple[int, ...], name: str, count: int, tmp_path: Path) -> None:
    said: list[str] = []
    profiler = StepProfiler(ObserveSection(profile_steps=(2, 4)), tmp_path, said.append)
    take_steps(profiler, *steps)
    profiler.close()
    (file,) = (tmp_path / "profile").iterdir()
    assert file.name == name and shapes_of(file) == count and said == [f"torch profiler: {file}"]


def test_what_is_not_asked_for_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "profile", None)
    take_steps(StepProfiler(ObserveSection(), tmp_path), 1, 2)
    other = StepProfiler(ObserveSection(profile_steps=(1, 2), memory_steps=(1, 2), profile_ranks=(1,)), tmp_path)
    take_steps(other, 1, 2)
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_without_cuda_a_memory_snapshot_is_refused_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    said: list[str] = []
    take_steps(StepProfiler(ObserveSection(memory_steps=(1, 2)), tmp_path, said.append), 1, 2, 3)
    assert said == ["observe.memory_steps: no snapshot is made, for this machine has no CUDA, whose memory it is of"]


def test_with_cuda_a_memory_snapshot_holds_the_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: calls.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: (calls.append("dump"), Path(path).touch()))
    said: list[str] = []
    take_steps(StepProfiler(ObserveSection(memory_steps=(2, 3)), tmp_path, said.append), 1, 2, 3, 4)
    assert calls == [{"max_entries": profiling.MAX_ENTRIES}, "dump", {"enabled": None}]
    assert said == [f"memory snapshot: {tmp_path}/profile/memory_steps_2-3_rank_00000.pickle"]


def test_a_profile_that_cannot_be_written_is_one_line_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file in the folder's place")
    said: list[str] = []
    take_steps(StepProfiler(ObserveSection(profile_steps=(1, 1)), tmp_path, said.append), 1, 2)
    assert len(said) == 1 and "is not written, and the run goes on" in said[0]


@pytest.mark.parametrize("steps", [(3, 2), (0, 1), (1,)])
def test_a_range_that_is_none_is_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        ObserveSection(profile_steps=steps)
