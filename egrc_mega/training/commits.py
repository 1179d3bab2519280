"""The commits of a run: which step is the newest one, and how every save has ended."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

from egrc_mega.checkpoint.store import CheckpointStore, Outcome, Stateful
from egrc_mega.config.config import Config
from egrc_mega.observe.pulse import PULSE
from egrc_mega.observe.spans import span
from egrc_mega.stages.state import RunState
from egrc_mega.training.lead import Lead


class Commits:
    """Saves steps, now or behind the next ones, and tells the lead how it went. Every method is collective.

    Raises from all of them:
        CheckpointError: on rank 0, when a save has failed and the run is not to go on; `RelayedError` elsewhere.
    """

    def __init__(self, store: CheckpointStore, lead: Lead | None, step: int = 0) -> None:
        """`step`: the one that the run goes on from."""
        self._store, self._lead = store, lead
        self.step = step
        """The newest one that is committed; the same on every rank."""
        self._begun = step
        """The newest one whose save has begun in this process."""

    def begin(self, policy: Stateful, state: RunState, *, is_stage_end: bool = False) -> None:
        """Commit the last step that is done, or have it copied and written behind the next ones."""
        done = self._begun = state.progress.step
        with self._awaited(), span("checkpoint", step=done) as facts:
            ended = self._store.save(done, policy, state.model_dump(mode="json"), is_stage_end=is_stage_end)
        if self._lead:
            self._lead.events.write("checkpoint", **facts)
        self._note(ended)

    def complete(self, policy: Stateful, state: RunState, *, is_stage_end: bool = False) -> bool:
        """Commit the last step that is done, if it is not, and wait; whether it is committed."""
        self.settle()
        if state.progress.step > self.step:
            self.begin(policy, state, is_stage_end=is_stage_end)
            self.settle()
        return self.step == state.progress.step

    def ensure(self, policy: Stateful, state: RunState) -> None:
        """`begin`, unless the step is committed, or its save has begun."""
        if state.progress.step > max(self.step, self._begun):
            self.begin(policy, state)

    def has(self, step: int) -> bool:
        """Whether a step, which may still be in flight, is committed and has stayed."""
        if step > self.step:
            self.settle()
        return self._store.has(step)

    def hold(self, steps: Iterable[int]) -> None:
        """Have these steps stay, whatever else goes, and no others that were held before."""
        self._store.hold(steps)

    def settle(self, *, wait: bool = True) -> None:
        """Note how the save in flight has ended; `wait`: until it has."""
        with self._awaited():
            ended = self._store.settle(wait=wait)
        self._note(ended)

    def _awaited(self) -> AbstractContextManager[None]:
        """A save has a limit of its own before the run counts as hanging."""
        return PULSE.awaiting("the checkpoint", self._store.timeout_s, "checkpoint.timeout_s")

    def _note(self, ended: list[Outcome]) -> None:
        for outcome in ended:
            if outcome.problem is None:
                self.step = outcome.step
            if self._lead:
                self._lead.note_save(outcome)


def open_store(config: Config) -> CheckpointStore:
    """The run's checkpoints, as the configuration wants them (collective)."""
    section = config.checkpoint
    return CheckpointStore(
        config.run.dir / "checkpoints",
        section.keep_last,
        keep_every=section.keep_every,
        run_bytes=int(section.disk_gib * 2**30) if section.disk_gib else None,
        asynchronous=section.asynchronous,
        on_failure=section.on_failure,
        max_failures=section.max_failures,
        timeout_s=section.timeout_s,
    )
