"""Everything of a run's place, as one record: what a checkpoint keeps beside weights and optimizer."""

from typing import Any

from pydantic import Field, NonNegativeInt

from egrc_mega.sections.base import Section
from egrc_mega.stages.best import Best
from egrc_mega.stages.health import Health
from egrc_mega.stages.progress import Progress


class Carried(Section):
    """A problem that was asked for and has not been trained on yet."""

    place: NonNegativeInt
    """The problem's number since the start of the run."""
    age: NonNegativeInt
    """Steps that have ended without it."""


class Position(Section):
    """Where a run stands in its problems."""

    cursor: NonNegativeInt = 0
    """Problems asked for so far."""
    carried: tuple[Carried, ...] = ()
    """Those that were asked for and aborted; they come first in the next step."""


class Spent(Section):
    """What a run has used of its budgets for what servers lose and refuse; a resume goes on with what is left."""

    refused: NonNegativeInt = 0
    """Prompts, of `rollout.max_refused`."""
    restarts: tuple[float, ...] = ()
    """Seconds since each one of `rollout.max_restarts` within the last window."""
    spare_restarts: tuple[float, ...] = ()
    """The same of the spare servers (`evaluation.spare`), which have as many of their own."""


class Awaited(Section):
    """A point whose weights are measured beside training, and whose numbers have decided nothing yet.

    The fields are those of `evaluation.records.Subject`.
    """

    label: str
    """`base`, or the stage that goes on or has just ended."""
    ordinal: NonNegativeInt
    """Its place among the base and the stages."""
    step: NonNegativeInt
    """Training steps that the weights have seen."""
    weights: str
    """Their fingerprint."""
    within: bool
    """Whether the stage goes on."""


class RunState(Section):
    """A run's place between two steps."""

    progress: Progress = Progress()
    """Among the stages."""
    method: dict[str, Any] | None = None
    """The state of the method of the stage under way, or of the last one; None where the stage has not begun."""
    position: Position = Position()
    """Among the problems."""
    spent: Spent = Spent()
    """Of its budgets."""
    best: Best = Best()
    """By its evaluations."""
    awaited: tuple[Awaited, ...] = ()
    """Points that are being measured beside training, the oldest first."""
    health: Health = Health()
    """What the alarms have seen of its steps."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The configuration that the run goes by, with which a resume compares its own."""

    @property
    def version(self) -> str:
        """Name of the policy's weights: how many steps they have seen."""
        return f"v{self.progress.step}"
