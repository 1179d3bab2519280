"""Rank 0's part of evaluations: measures, in between or on spare servers, and keeps and says what came of it."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.evaluation.evaluator import Outcome
from egrc_mega.evaluation.kept_weights import KeptWeights
from egrc_mega.evaluation.records import Subject
from egrc_mega.evaluation.score import score_of
from egrc_mega.policy.engine import Policy
from egrc_mega.stages.best import Score
from egrc_mega.training.noting import NotingLead
from egrc_mega.training.serving import Serving
from egrc_mega.training.spare import Spare, measured


class MeasuringLead(NotingLead):
    """What the lead does about evaluations, with parts that it has."""

    serving: Serving
    spare: Spare | None = None
    """Servers of the evaluation's own; None: it is done on those that sample."""

    def evaluate(self, subject: Subject) -> Score | None:
        """Measure the weights that the servers hold, where the run folder has no numbers of them yet, and say so.

        Returns:
            What decides about the best checkpoint; None where nothing does.
        """
        started = time.monotonic()
        outcomes = self.serving.evaluator.evaluate(subject)
        if any(outcome.kept_from is None for outcome in outcomes):
            self.printer.note_pause(time.monotonic() - started)
        self.note_evaluation(subject, outcomes)
        self.serving.fleet.forget_rates()
        return self._score(subject, outcomes)

    def note_evaluation(self, subject: Subject, outcomes: Sequence[Outcome]) -> None:
        """Keep and say the numbers of a point, or that there are none; of any thread."""
        for outcome in outcomes:
            self.printer.note(outcome.line())
            self.events.write("evaluation", kept_from=outcome.kept_from, **asdict(outcome.point))
        if not outcomes:
            text = f"the weights of {subject} are gone before they were measured: there are no numbers of them"
            self.events.write("evaluation_lost", step=subject.step, text=text)
            self.printer.note(text)
        for line in self.spare.take_events() if self.spare else ():
            self.events.write("spare_server", step=subject.step, text=line)

    def _score(self, subject: Subject, outcomes: Sequence[Outcome]) -> Score | None:
        """What decides about the best checkpoint; None where nothing does."""
        best = self.config.evaluation.best
        return score_of([outcome.point for outcome in outcomes], subject, best) if best and outcomes else None

    def begin_evaluation(self, subjects: Sequence[Subject]) -> None:
        """Have points measured beside training, in this order, behind those that were begun before."""
        assert self.spare is not None
        for subject in subjects:
            self.spare.begin(subject)

    def await_score(self, subject: Subject) -> Score | None:
        """The score of a point that is measured beside training; waits until it is."""
        assert self.spare is not None
        started = time.monotonic()
        outcomes = self.spare.outcomes(subject)
        self.printer.note_pause(time.monotonic() - started)
        return self._score(subject, outcomes)

    def measure_kept(self, subject: Subject) -> Score | None:
        """`evaluate` for weights that were kept to be measured beside training, where spare servers are no more."""
        serving = self.serving
        outcomes = measured(subject, serving.evaluator, self.kept_weights, serving.fleet)
        self.note_evaluation(subject, outcomes)
        serving.fleet.wait_until_recovered()  # with these weights
        self.kept_weights.remove(subject.step or 0)
        return self._score(subject, outcomes)

    @property
    def kept_weights(self) -> KeptWeights:
        """Of points that are measured beside training."""
        return KeptWeights(self.folder.path)

    def keep_served(self, step: int, version: str) -> bytes | None:
        """`keep_weights` without gathering them, where servers load them from a folder; None where they do not."""
        if self.config.sync.transport != "disk":  # what is in the folder then is of another run's steps
            return None
        found = self.kept_weights.link(step, self.folder.weights / version)
        return found.encode() if found else None

    def keep_weights(self, tensors: HfTensors, policy: Policy, step: int) -> str:
        """Keep the weights of a point until its numbers are there; their fingerprint."""
        architecture, source, dtype = policy.architecture, policy.companions, policy.dtype
        return self.kept_weights.write(step, tensors, architecture=architecture, source=source, dtype=dtype)
