"""Every response of every step on disk, with what it was worth and what it taught: `rollouts/step_000007.safetensors`.

A file is written by a thread while training goes on, under its name only when it is whole; see `rollout_file`.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from egrc_mega.errors import RunError, StorageError
from egrc_mega.observe.rollout_file import StepReader, StoredGroup, StoredStep, arrays_of, step_of

FOLDER = "rollouts"
UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
"""What reading a torn or foreign file raises."""
WRITE_TIMEOUT_S = 300.0
"""A step's file that is not written after so long stops the run: the disk is gone or hopelessly slow."""


class RolloutLog:
    """Writes the steps of a run. Use as a context manager: leaving it waits for the last file."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        """`budget_bytes`: what the folder may hold, the newest step excepted; 0 writes nothing."""
        self.folder, self.budget_bytes = folder, budget_bytes
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._pending: Future[None] | None = None

    def write(
        self,
        step: int,
        stage: str,
        groups: Sequence[StoredGroup],
        *,
        step_in_stage: int | None = None,
        state: Mapping[str, Any] | None = None,
        collected: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to write a step (counted from 1). Files of later steps, which a resumed run makes anew, go.

        Args:
            step_in_stage: counted from 0.
            state: of the method, as it was when it gave the credits.
            collected: how the step was sampled; a replay needs it.

        Raises:
            StorageError: the step before could not be written, or not within WRITE_TIMEOUT_S.
        """
        self._wait()
        if self.budget_bytes:
            stored = StoredStep(
                step=step,
                stage=stage,
                groups=tuple(groups),
                step_in_stage=step_in_stage,
                state=state,
                collected=collected,
            )
            self._pending = self._writer.submit(self._write, stored)

    def _write(self, stored: StoredStep) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = step_path(self.folder, stored.step)
        partial = self.folder / f".{path.name}.{os.getpid()}"
        try:
            save_file(arrays_of(stored), partial)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)  # the disk may be full of it
            raise
        numbers = stored_steps(self.folder)
        for later in (number for number in numbers if number > stored.step):
            step_path(self.folder, later).unlink()
        self._prune([number for number in numbers if number < stored.step], path.stat().st_size)

    def _prune(self, earlier: Sequence[int], used: int) -> None:
        """Remove the oldest steps that the budget has no room for."""
        for number in sorted(earlier, reverse=True):
            path = step_path(self.folder, number)
            used += path.stat().st_size
            if used > self.budget_bytes:
                path.unlink()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result(WRITE_TIMEOUT_S)
        except (OSError, SafetensorError, TimeoutError) as error:
            raise StorageError(
                f"observe.rollouts_gib: {self.folder} cannot be written: {_said(error)}; see that its file system has "
                f"room and answers, or set the field to 0 to keep no rollouts"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            self._writer.shutdown(wait=error is None, cancel_futures=True)


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"it takes longer than {WRITE_TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or str(error)


def step_path(folder: Path, step: int) -> Path:
    """A step's file in the folder of rollouts."""
    return folder / f"step_{step:06d}.safetensors"


def stored_steps(folder: Path) -> list[int]:
    """Numbers of the steps that a folder of rollouts holds, ascending."""
    names = (re.fullmatch(r"step_(\d{6,})\.safetensors", path.name) for path in folder.glob("step_*.safetensors"))
    return sorted(int(match[1]) for match in names if match)


def require_steps(run_dir: Path) -> list[int]:
    """Numbers of the steps that a run has stored, ascending, at least one.

    Raises:
        RunError: there is none.
    """
    if numbers := stored_steps(run_dir / FOLDER):
        return numbers
    raise RunError(
        f"{run_dir / FOLDER} holds no rollouts; give the folder of a run whose observe.rollouts_gib is above 0"
    )


def read_rollouts(run_dir: Path, step: int) -> StoredStep:
    """What a run has stored of a step (counted from 1).

    Raises:
        RunError: the run keeps no rollouts, or not this step's; the message says which steps there are.
    """
    folder = run_dir / FOLDER
    numbers = require_steps(run_dir)
    if step not in numbers:
        raise RunError(f"--step: {folder} holds no step {step}; it holds {in_words(numbers)}")
    return read_step_file(folder, step)


def read_step_file(folder: Path, step: int) -> StoredStep:
    """What a folder of rollouts holds of a step.

    Raises:
        RunError: it cannot be read.
    """
    path = step_path(folder, step)
    try:
        return step_of(load_file(path))
    except UNREADABLE as error:
        others = in_words([number for number in stored_steps(folder) if number != step])
        raise RunError(f"{path} cannot be read ({error!r}); the other steps are {others or 'none'}") from error


class StepFile:
    """A step's file, of which only what is asked for is read: a page shows few of its groups, and it may be large.

    Use as a context manager: it holds the file open, so that all of it stays there when the run removes it meanwhile.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        """Open it and read the index of its groups.

        Raises:
            RunError: there is no such file, or it cannot be read.
        """
        self.path = step_path(run_dir / FOLDER, step)
        with self._refusing(), ExitStack() as stack:
            file = stack.enter_context(safe_open(self.path, "numpy"))
            names = list(file.keys())
            self._reader = StepReader({name: file.get_slice(name) for name in names})
            self._stack = stack.pop_all()
        self.index = self._reader.index
        """See `StepReader`."""

    def group(self, number: int) -> StoredGroup:
        """One group, counted from 0; raises as the constructor does."""
        with self._refusing():
            return self._reader.group(number)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise RunError(f"{self.path} cannot be read ({error!r}); remove it to see the other steps") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


def in_words(numbers: Sequence[int]) -> str:
    """Ascending numbers as ranges, e.g. "1-4, 7, 9-12"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, dict.fromkeys(each))) for each in ranges)
