"""The points of a run at which its weights are measured, and what their numbers decide. Every method is collective."""

from collections.abc import Callable, Sequence
from typing import Protocol

from egrc_mega.config.config import Config
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.evaluation.fingerprint import fingerprint
from egrc_mega.evaluation.records import Subject
from egrc_mega.observe.spans import span
from egrc_mega.policy.engine import Policy
from egrc_mega.stages.best import Score, follow, reason_to_stop
from egrc_mega.stages.progress import is_within_stage, reached
from egrc_mega.stages.state import Awaited, RunState
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
    measured of them is kept. In between training waits for the numbers. Beside training, on spare servers, it goes on:
    the numbers of a point decide when `max_pending` points have come after it, so that the step at which they do so
    does not depend on how long anything takes, and a resume comes to the same end.
    """

    def __init__(self, run: Measured) -> None:
        self.run = run

    @property
    def _is_served(self) -> bool:
        """Whether anybody could answer: nobody does in a replay."""
        return self.run.config.run.replay_rollouts is None

    def measure_if_due(self) -> None:
        """At the place that the run has reached."""
        run = self.run
        progress, section = run.state.progress, run.config.evaluation
        # where a rule ends the run its stage ends, too
        within = is_within_stage(progress, run.config.stages) and not run.stopped_by
        if not self._is_served or (within and (section.every is None or progress.step % section.every)):
            return
        if section.spare is not None:
            self._begin_point(section.spare.max_pending, within=within)
            return
        found = self._measure_point(within=within)
        if found:
            self._weigh(Score.model_validate_json(found), run.state)
        if run.stopped_by and within:  # the end of its stage, after all
            self._measure_point(within=False)

    def _measure_point(self, *, within: bool) -> bytes:
        """Measure the present weights; the score of what decides about the best checkpoint, or nothing."""
        run, hashes = self.run, list[str]()
        with span("evaluation", step=run.state.progress.step):
            run.hand_out_weights(lambda _lead, tensors: hashes.append(fingerprint(tensors, run.policy.dtype)))
            weights = hashes[0] if hashes else ""  # which rank 0 alone has
            return self._found_by(lambda lead, one: lead.evaluate(one), _subject(self._point(weights, within)))

    def _found_by(self, measure: Callable[[Lead, Subject], Score | None], subject: Subject) -> bytes:
        """What rank 0 finds of a subject, or nothing where nothing decides."""
        return self.run.unless_stopped(lambda lead: _packed(measure(lead, subject)))

    def _point(self, weights: str, within: bool) -> Awaited:
        """The place that the run has reached, as a point of the table."""
        progress = self.run.state.progress
        label, ordinal = reached(progress, self.run.config.stages)
        return Awaited(label=label, ordinal=ordinal, step=progress.step, weights=weights, within=within)

    def _begin_point(self, max_pending: int, *, within: bool) -> None:
        """Have the present weights measured beside training, once fewer than so many points are awaited.

        With `evaluation.best` the step is committed, and stays until its numbers say whether it is the best.
        """
        run, before = self.run, self.run.state
        with span("evaluation", step=before.progress.step):
            self._decide(max_pending - 1)
            within = within and not run.stopped_by  # else it is the end of its stage, after all
            point = self._point(self._keep_weights(), within)
            if run.config.evaluation.best and point.step:
                run.commits.ensure(run.policy, before)
            run.on_lead(lambda lead: lead.begin_evaluation([_subject(point)]))
        self._await((*run.state.awaited, point))

    def _keep_weights(self) -> str:
        """Keep the present weights until they are measured; their fingerprint."""
        run, step, version = self.run, self.run.state.progress.step, self.run.state.version
        if found := run.on_lead(lambda lead: lead.keep_served(step, version)):
            return found.decode()
        hashes: list[str] = []
        run.hand_out_weights(lambda lead, tensors: hashes.append(lead.keep_weights(tensors, run.policy, step)))
        return run.on_lead(lambda _lead: hashes[0].encode()).decode()

    def _decide(self, num_left: int) -> None:
        """Wait for the numbers of the oldest points, until so many points are left, and let them decide.

        Nothing has changed until all of them are there: a stop may come while they are waited for.
        """
        before = self.run.state
        num_due = max(0, len(before.awaited) - num_left)
        due = [_subject(point) for point in before.awaited[:num_due]]
        scores = [self._found_by(lambda lead, one: lead.await_score(one), one) for one in due]
        for found in filter(None, scores):
            self._weigh(Score.model_validate_json(found), before)
        if due:
            self._await(before.awaited[num_due:])

    def _await(self, points: Sequence[Awaited]) -> None:
        """From now on these points are awaited; their steps stay as long as one of them may be the best."""
        run = self.run
        run.state = run.state.model_copy(update={"awaited": tuple(points)})
        if run.config.evaluation.spare and run.config.evaluation.best:
            run.commits.hold(point.step for point in points)

    def take_up(self) -> None:
        """Before servers get the present weights: go on with the points that an interrupted run has awaited.

        Where spare servers are no more, the others measure them first.
        """
        run, section = self.run, self.run.config.evaluation
        if not self._is_served:
            return
        subjects = [_subject(point) for point in run.state.awaited]
        run.on_lead(lambda lead: lead.kept_weights.keep_only(one.step or 0 for one in subjects))
        if section.spare is not None:
            run.on_lead(lambda lead: lead.begin_evaluation(subjects))
            self._await(run.state.awaited)
            return
        for one in subjects:
            if found := self._found_by(lambda lead, one: lead.measure_kept(one), one):
                self._weigh(Score.model_validate_json(found), run.state)
        self._await(())

    def settle(self) -> None:
        """At the end of the run: wait for every number, and let it decide."""
        if self._is_served:
            self._decide(0)
            self.run.on_lead(lambda lead: lead.kept_weights.keep_only(()))

    def _weigh(self, score: Score, place: RunState) -> None:
        """Whether it is the best so far, which is committed then, and whether the run has seen enough.

        Args:
            place: of the run before the evaluation. It is committed where the run ends, or where it is what was
                measured: a resume comes to it again, and to the same end.
        """
        run, section = self.run, self.run.config.evaluation
        if section.best is None:  # any longer
            return
        by = section.best
        best, is_better = follow(run.state.best, by, score)
        reason = reason_to_stop(best, section.stop) if section.stop else None
        if reason or (is_better and score.step == place.progress.step):
            run.commits.complete(run.policy, place, is_stage_end=reason is not None)
        if is_better and run.commits.has(score.step):
            run.on_lead(lambda lead: lead.note_best(by, score))
        elif is_better:  # its checkpoint could not be written, and the run goes on without
            best = run.state.best
        run.state = run.state.model_copy(update={"best": best})
        if reason and run.turn():
            run.stopped_by = reason
            run.on_lead(lambda lead: lead.end_run(place.progress.step, reason))


def _subject(point: Awaited) -> Subject:
    return Subject(**point.model_dump())


def _packed(score: Score | None) -> bytes | None:
    return score.model_dump_json().encode() if score else None
