"""Commits the state of a run: one folder per step that exists under its name only when it is whole.

Every rank writes and hashes its shards in `step_N.tmp`; then rank 0 adds the small files and a manifest of sizes and
SHA-256 sums, syncs everything to disk, renames the folder and points `latest` at it. A save that fails on one rank
fails on all, and leaves the steps before it alone. Resume takes the newest step that verifies, and says by name which
it passes over and why. docs/checkpoints.md has the whole protocol.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from megatron.core import dist_checkpointing

from egrc_mega.checkpoint.agreement import Ranks
from egrc_mega.checkpoint.commit import Draft, begin, clear, describe, discard, finish, require_room
from egrc_mega.checkpoint.host_copy import HostCopy
from egrc_mega.checkpoint.pointers import step_name
from egrc_mega.checkpoint.retention import Retention, steps
from egrc_mega.checkpoint.shards import Staged, Written, copied_to_host, plan_shards, write_shards
from egrc_mega.checkpoint.state_file import IS_STAGE_END as IS_STAGE_END
from egrc_mega.checkpoint.state_file import read_state as read_state
from egrc_mega.checkpoint.verification import problem_of
from egrc_mega.convert.pickles import require_harmless
from egrc_mega.errors import CheckpointError, EgrcError
from egrc_mega.manifest import is_complete
from egrc_mega.observe.spans import span

TIMEOUT_S = 1800.0


class Stateful(Protocol):
    """What the store saves: see `policy.engine.Policy`."""

    companions: Path

    def sharded_state(self, *, is_loading: bool) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...

    def sharded_model(self) -> dict[str, Any]: ...

    def load_model(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a save has ended."""

    step: int
    seconds: float
    """From its begin until all ranks knew."""
    problem: str | None = None
    """Why there is no such step; None: it is committed."""


class CheckpointStore:
    """The `checkpoints/` folder of a run. Whoever writes there holds the run's lock. Every method is collective."""

    def __init__(
        self,
        folder: Path,
        keep: int,
        *,
        keep_every: int | None = None,
        run_bytes: int | None = None,
        asynchronous: bool = False,
        on_failure: Literal["stop", "continue"] = "stop",
        max_failures: int = 3,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Open the folder, which need not exist.

        Args:
            keep: how many committed steps stay besides the ends of stages.
            keep_every: steps whose number is a multiple stay, too.
            run_bytes: of the run's folder: above it the oldest steps go, see `Retention`.
            asynchronous: a thread writes what `save` has copied to host memory.
            on_failure: what a save that fails does to the run.
            max_failures: so many failed saves one after the other end the run even if it was to continue.
            timeout_s: longest that a rank waits for the others, or for the thread.
        """
        self.folder, self.retention = folder, Retention(keep, keep_every, run_bytes)
        self.asynchronous, self.on_failure, self.max_failures = asynchronous, on_failure, max_failures
        self.timeout_s = timeout_s
        self._ranks = Ranks(timeout_s)
        self._background = Ranks(timeout_s) if asynchronous else self._ranks
        self._room = HostCopy()
        self._in_flight: _Saving | None = None
        self._failures = 0
        """One after the other, up to now."""

    def save(self, step: int, policy: Stateful, state: dict[str, Any], *, is_stage_end: bool = False) -> list[Outcome]:
        """Commit a step, or begin to: an asynchronous save returns once the state is copied.

        Args:
            state: small and JSON: position in the data, stage, seed.
            is_stage_end: the step stays however many follow it.

        Returns:
            How saves have ended meanwhile: this one, or the one that was in flight.

        Raises:
            CheckpointError: on rank 0, when a save has failed and the run is not to go on; `RelayedError` elsewhere.
        """
        ended = self.settle()
        draft = Draft(
            folder=self.folder, step=step, state=state, is_stage_end=is_stage_end, companions=policy.companions
        )
        started = time.monotonic()
        saving = _Saving(step, started, None)
        try:
            staged = self._stage(draft, policy)
        except EgrcError as error:
            saving.error = error
            return [*ended, self._end(saving)]
        saving.work = lambda: self._write(draft, staged)
        if self.asynchronous:
            self._in_flight = saving
            saving.start()
            return ended
        saving.run()
        return [*ended, self._end(saving)]

    def settle(self, *, wait: bool = True) -> list[Outcome]:
        """How the save in flight has ended, if there is one.

        Args:
            wait: for its end; else nothing is returned while it goes on.

        Raises:
            CheckpointError: as `save`.
        """
        saving = self._in_flight
        if saving is None:
            return []
        if not wait and not self._ranks.on_rank_0(saving.is_done, "the save in flight cannot be looked at"):
            return []
        saving.wait(self.timeout_s)
        self._in_flight = None
        return [self._end(saving)]

    def close(self) -> None:
        """Wait for the save in flight on the way out; how it has ended is said, and stops nothing."""
        saving, self._in_flight = self._in_flight, None
        if saving is None:
            return
        try:
            saving.wait(self.timeout_s)
        except CheckpointError as error:
            saving.error = error
        if saving.error and self._ranks.rank == 0:
            print(f"checkpoint {saving.step} is not written: {saving.error}", flush=True)

    def newest(self) -> Path | None:
        """The newest step that verifies, the same on every rank, or None. What does not verify is named on stdout."""
        task = f"{self.folder} cannot be read"
        names = self._ranks.on_rank_0(lambda: [path.name for path in steps(self.folder)], task)
        for path in (self.folder / name for name in reversed(names)):
            problem = problem_of(path, self._ranks)
            if problem is None:
                return path
            if self._ranks.rank == 0:
                print(f"checkpoint {path} is passed over: {problem}", flush=True)
        return None

    def has(self, step: int) -> bool:
        """Whether a step is committed and still there, the same on every rank."""
        path = self.folder / step_name(step)
        return bool(self._ranks.on_rank_0(lambda: path.is_dir() and is_complete(path), f"{path} cannot be looked at"))

    def hold(self, steps: Iterable[int]) -> None:
        """Have these steps stay, and no others that were held before, until they are held no longer."""
        self.retention = replace(self.retention, held=frozenset(steps))

    def state(self, path: Path) -> dict[str, Any]:
        """The small state of a step: see `read_state`."""
        return read_state(path)

    def _stage(self, draft: Draft, policy: Stateful) -> Staged:
        task = f"{draft.partial} cannot be written"
        staged = plan_shards(policy.sharded_state(is_loading=False))

        def prepare() -> int:
            nonlocal staged
            staged = copied_to_host(staged, self._room) if self.asynchronous else staged
            return staged.size_bytes

        try:
            self._ranks.on_rank_0(lambda: begin(draft), task)
            sizes = self._ranks.on_all(prepare, task)
            self._ranks.on_rank_0(lambda: require_room(draft, sum(sizes)), task)
        except EgrcError:
            self._discard(draft)
            raise
        return staged

    def _write(self, draft: Draft, staged: Staged) -> None:
        """Write, commit and prune, in a thread or not."""
        ranks, task = self._background, f"{draft.partial} cannot be written"
        try:
            packed = ranks.on_all(lambda: write_shards(staged, draft.partial, draft.step).packed(), task)
            ranks.on_rank_0(lambda: finish(draft, staged, [Written.unpacked(part) for part in packed]), task)
        except EgrcError:
            self._discard(draft)
            raise
        ranks.on_rank_0(lambda: clear(draft, self.retention), f"{self.folder} cannot be pruned")

    def _discard(self, draft: Draft) -> None:
        if self._ranks.rank == 0:
            discard(draft)

    def _end(self, saving: "_Saving") -> Outcome:
        seconds = time.monotonic() - saving.started
        if saving.error is None:
            self._failures = 0
            return Outcome(saving.step, seconds)
        self._failures += 1
        if self.on_failure == "stop" or self._failures >= self.max_failures:
            raise _final(saving.error, self.on_failure, self._failures)
        return Outcome(saving.step, seconds, str(saving.error))


@dataclass
class _Saving:
    """A save under way, in this thread or in one of its own, which ends with the process."""

    step: int
    started: float
    work: Callable[[], None] | None
    error: EgrcError | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run_beside, name=f"checkpoint {self.step}", daemon=True)
        self.thread.start()

    def _run_beside(self) -> None:
        with span("checkpoint", step=self.step):
            self.run()

    def run(self) -> None:
        assert self.work is not None
        try:
            self.work()
        except EgrcError as error:
            self.error = error
        except Exception as error:  # a thread would take it with it
            self.error = CheckpointError(f"step {self.step} cannot be written: {type(error).__name__}: {error}")
        finally:
            self.work = None  # it holds a copy of the state

    def is_done(self) -> bool:
        return self.thread is None or not self.thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Raises CheckpointError when it takes longer."""
        if self.thread:
            self.thread.join(timeout_s)
        if not self.is_done():
            raise CheckpointError(
                f"step {self.step} is not written after {timeout_s:g} s (checkpoint.timeout_s); "
                f"see that its disk answers"
            )


def _final(error: EgrcError, on_failure: str, failures: int) -> EgrcError:
    """The error that ends the run."""
    if not isinstance(error, CheckpointError):
        return error
    several = f" ({failures} saves one after the other have failed)" if on_failure == "continue" else ""
    return CheckpointError(
        f"{error}{several}; see that its file system has room and can be written, then continue with --resume"
    )


def load(path: Path, policy: Stateful) -> None:
    """Load a verified step into the policy (collective).

    Raises:
        CheckpointError: its pickles would do more than describe tensors; nothing of them has been run.
    """
    require_harmless(path)
    loaded = dist_checkpointing.load(policy.sharded_state(is_loading=True), str(path))
    policy.load_state(loaded)


def save_model(folder: Path, policy: Stateful) -> None:
    """Write the weights alone into an empty folder, in megatron's sharded format (collective)."""
    ranks, task = Ranks(TIMEOUT_S), f"{folder} cannot be written"
    staged = plan_shards({"model": policy.sharded_model()})
    packed = ranks.on_all(lambda: write_shards(staged, folder, 0).packed(), task)

    def tell() -> None:
        describe(folder, staged, [Written.unpacked(part) for part in packed])

    ranks.on_rank_0(tell, task)


def load_model(path: Path, policy: Stateful) -> None:
    """Load the weights alone, of a step or of what `save_model` wrote (collective); raises as `load`."""
    require_harmless(path)
    policy.load_model(dist_checkpointing.load({"model": policy.sharded_model()}, str(path))["model"])
