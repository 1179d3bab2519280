"""One step of a stage, as it is about to be taken."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from egrc_mega.errors import RunError
from egrc_mega.methods.method import Method, build_method
from egrc_mega.methods.records import View
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.state import RunState


@dataclass(frozen=True, slots=True)
class Turn:
    """The same on every rank, and the same after a resume."""

    step: int
    """Over the whole run, from 0."""
    step_in_stage: int
    """From 0."""
    stage: StageSection
    method: Method[Any, Any]
    view: View
    """What the method's hooks see."""
    version: str
    """Name of the weights that the step begins with."""

    @property
    def opens_stage(self) -> bool:
        """True for the first step of a stage."""
        return self.step_in_stage == 0

    @property
    def next(self) -> "Turn | None":
        """The turn that follows while nothing but this one's outcome is unknown; None where the stage's steps are done.

        It is what one-step-ahead sampling plans with: the method's state is the one before this turn.
        """
        if self.step_in_stage + 1 >= self.stage.steps:
            return None
        view = View(step=self.step_in_stage + 1, state=self.view.state, seed=self.view.seed)
        return Turn(self.step + 1, self.step_in_stage + 1, self.stage, self.method, view, f"v{self.step + 1}")


def turn_of(state: RunState, stages: tuple[StageSection, ...], seed: int) -> Turn | None:
    """The turn that a run's state asks for; None when the run is over.

    Raises:
        RunError: the method's state is none that the method can read.
    """
    progress = state.progress
    if progress.stage >= len(stages):
        return None
    stage = stages[progress.stage]
    method = build_method(stage)
    try:
        own = method.State.model_validate(state.method or {})
    except ValidationError as error:
        raise RunError(
            f"stages.{stage.name}: the checkpoint holds a state that the method {stage.method} cannot read "
            f"({error.errors()[0]['msg']}); resume with the method that it was made with, or begin anew with --fresh"
        ) from error
    view = View(step=progress.step_in_stage, state=own, seed=seed)
    return Turn(progress.step, progress.step_in_stage, stage, method, view, state.version)
