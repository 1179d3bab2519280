"""A profile by torch, and a history of CUDA's memory, over a range of steps, as files in RUN/profile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from egrc_mega.observe.spans import RECORDER
from egrc_mega.sections.run import ObserveSection, StepRange

FOLDER = "profile"
MAX_ENTRIES = 1_000_000
"""Allocations and frees that a memory snapshot holds, the latest; some 500 bytes each."""


class StepProfiler:
    """Of this rank. What is under way when the run ends is written then."""

    def __init__(self, section: ObserveSection, run_dir: Path, note: Callable[[str], None] = print) -> None:
        self.section, self.folder, self.note = section, run_dir / FOLDER, note
        self._profile: profile | None = None
        self._profiled = self._remembered = 0
        """Steps since each began; 0: it is not under way."""
        self._step = 0

    def begin(self, step: int) -> None:
        """A step (counted from 1) begins."""
        self._step = step
        if RECORDER.rank not in self.section.profile_ranks:
            return
        if _holds(self.section.profile_steps, step) and self._profile is None:
            has_cuda = torch.cuda.is_available()
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if has_cuda else [])]
            self._profile, self._profiled = profile(activities=activities, acc_events=True), step
            self._profile.__enter__()
        if _holds(self.section.memory_steps, step) and not self._remembered:
            self._remembered = step
            if torch.cuda.is_available():
                torch.cuda.memory._record_memory_history(max_entries=MAX_ENTRIES)
            else:
                self.note(
                    "observe.memory_steps: no snapshot is made, for this machine has no CUDA, whose memory it is of"
                )

    def end(self, step: int) -> None:
        """A step has ended; the files are written after the last of a range."""
        if self._profile and not _holds(self.section.profile_steps, step + 1):
            self._write_profile()
        if self._remembered and not _holds(self.section.memory_steps, step + 1):
            self._write_snapshot()

    def close(self) -> None:
        """The run ends, for whatever reason."""
        if self._profile:
            self._write_profile()
        if self._remembered:
            self._write_snapshot()

    def _write_profile(self) -> None:
        found, self._profile = self._profile, None
        assert found is not None
        found.__exit__(None, None, None)
        self._write("torch profiler", f"trace_{self._name(self._profiled)}.json.gz", found.export_chrome_trace)

    def _write_snapshot(self) -> None:
        begun, self._remembered = self._remembered, 0
        if torch.cuda.is_available():
            name = f"memory_{self._name(begun)}.pickle"
            self._write("memory snapshot", name, torch.cuda.memory._dump_snapshot)
            torch.cuda.memory._record_memory_history(enabled=None)

    def _name(self, begun: int) -> str:
        return f"steps_{begun}-{self._step}_rank_{RECORDER.rank:05d}"

    def _write(self, what: str, name: str, write: Callable[[str], Any]) -> None:
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write(str(path))
        except (OSError, RuntimeError) as error:  # what torch makes of a disk that refuses
            self.note(f"{path} is not written, and the run goes on: {error}")
        else:
            self.note(f"{what}: {path}")


def _holds(steps: StepRange | None, step: int) -> bool:
    return steps is not None and steps[0] <= step <= steps[1]
