"""The points of a run at which its weights are measured, and what their numbers decide. Every method is collective."""

from collections.abc import Callable
from typing import Protocol

from egrc_mega.config.config import Config
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.evaluation.fingerprint import fingerprint
from egrc_mega.evaluation.records import Subject
from egrc_mega.observe.spans import span
from egrc_mega.policy.engine import Policy
from egrc_mega.stages.best import Score, follow, reason_to_stop
from egrc_mega.stages.progress import is_within_stage, reached
from egrc_mega.stages.state import RunState
from egrc_mega.training.commits import Commits
from egrc_mega.training.lead import Lead
from egrc_mega.training.turn import Turn


class Measured(Protocol):
    """The run, as far as evaluations know it: see `training.run.Run`."""

    config: Config
    state: RunState
    policy: Policy
    commits: Commits
    stopped_by: str | None

    def turn(self) -> Turn | None: ...

    def on_lead(self, compute: Callable[[Lead], bytes | None]) -> bytes: ...

    def unless_stopped(self, compute: Callable[[Lead], bytes | None]) -> bytes: ...

    def hand_out_weights(self, take: Callable[[Lead, HfTensors], None]) -> None: ...


class Evaluations:
    """Measures the weights that the run has reached: before its stages, after each, and every so many steps.

    Whether they are due follows from the run's place alone; a resumed run comes to the same points, and what it has
    measured of them is kept.
    """

    def __init__(self, run: Measured) -> None:
        self.run = run

    def measure_if_due(self) -> None:
        """At the place that the run has reached."""
        run = self.run
        if run.config.run.replay_rollouts is not None:  # nobody could answer
            return
        progress, every = run.state.progress, run.config.evaluation.every
        within = is_within_stage(progress, run.config.stages)
        if within and (every is None or progress.step % every):
            return
        found = self._measure_point(within=within)
        if found:
            self._weigh(Score.model_validate_json(found))
        if run.stopped_by and within:  # the end of its stage, after all
            self._measure_point(within=False)

    def _measure_point(self, *, within: bool) -> bytes:
        """Measure the present weights; the score of what decides about the best checkpoint, or nothing."""
        run, progress = self.run, self.run.state.progress
        label, ordinal = reached(progress, run.config.stages)
        hashes: list[str] = []

        def measure(lead: Lead) -> bytes | None:
            subject = Subject(label=label, ordinal=ordinal, step=progress.step, weights=hashes[0], within=within)
            score = lead.evaluate(subject)
            return score.model_dump_json().encode() if score else None

        with span("evaluation", step=progress.step):
            run.hand_out_weights(lambda _lead, tensors: hashes.append(fingerprint(tensors, run.policy.dtype)))
            return run.unless_stopped(measure)

    def _weigh(self, score: Score) -> None:
        """Whether it is the best so far, which is committed then, and whether the run has seen enough.

        What is committed is the place before the evaluation: a resume comes to it again, and to the same end.
        """
        run, section = self.run, self.run.config.evaluation
        assert section.best is not None
        by = section.best
        best, is_better = follow(run.state.best, by, score)
        reason = reason_to_stop(best, section.stop) if section.stop else None
        if is_better or reason:
            is_kept = run.commits.complete(run.policy, run.state, is_stage_end=reason is not None)
            if is_better and is_kept:
                run.on_lead(lambda lead: lead.note_best(by, score))
            elif is_better:  # its checkpoint could not be written, and the run goes on without
                best = run.state.best
        run.state = run.state.model_copy(update={"best": best})
        if reason and run.turn():
            run.stopped_by = reason
            run.on_lead(lambda lead: lead.note_stop(score.step, reason))
