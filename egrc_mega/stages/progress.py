"""Where a run stands, and where it goes next: a value, and a pure function of it, the stages and the step's record."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import NonNegativeInt

from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.curves import Curves, follow


class Progress(Section):
    """A place in a run. Steps that are done are never computed again."""

    step: NonNegativeInt = 0
    """Steps done, over the whole run."""
    stage: NonNegativeInt = 0
    """Index of the stage under way; as many as there are stages when the run is over."""
    step_in_stage: NonNegativeInt = 0
    """Steps done of that stage, or of the last one when the run is over."""
    curves: Curves = Curves()
    """What the stage's rules have seen."""


class Switch(Section):
    """A stage has ended."""

    ended: str
    """The name of the stage that has ended."""
    opens: str | None
    """The name of the next one; None: the run is over."""
    step: int
    """Steps done, over the whole run."""
    steps_in_stage: int
    """Steps that the stage has had."""
    reason: str
    """Which rule ended it, with its numbers."""


def advance(
    progress: Progress, stages: Sequence[StageSection], record: Mapping[str, Any]
) -> tuple[Progress, Switch | None]:
    """The place after one more step of the stage under way, and the switch where that step was the stage's last.

    Args:
        record: the step's record: `entropy`, `length` and `accuracy`, each None where nothing was measured; the share
            `ungraded` is said beside an accuracy.
    """
    stage, steps = stages[progress.stage], progress.step_in_stage + 1
    curves = follow(progress.curves, stage.plateau, record) if stage.plateau else Curves()
    reason = _reason_to_end(stage, steps, curves, record.get("ungraded"))
    if reason is None:
        moved = {"step": progress.step + 1, "step_in_stage": steps, "curves": curves}
        return progress.model_copy(update=moved), None
    after = Progress(step=progress.step + 1, stage=progress.stage + 1)
    opens = stages[after.stage].name if after.stage < len(stages) else None
    if opens is None:  # with what its last stage has seen, a run may be given more steps later
        after = after.model_copy(update={"step_in_stage": steps, "curves": curves})
    return after, Switch(ended=stage.name, opens=opens, step=after.step, steps_in_stage=steps, reason=reason)


def _reason_to_end(stage: StageSection, steps: int, curves: Curves, ungraded: float | None) -> str | None:
    """The first rule that ends the stage; guards act at once, the plateau after `min_steps` only."""
    if steps >= stage.steps:
        return f"all {stage.steps} steps are done"
    rules = stage.plateau
    if rules is None:
        return None
    accuracy, best = curves.accuracy, curves.best_accuracy
    guard = rules.accuracy_guard
    if guard is not None and accuracy is not None and best is not None and best - accuracy > guard:
        unknown = f" ({ungraded:.1%} of the step's responses ungraded)" if ungraded else ""
        return f"accuracy {accuracy:.3f} is {best - accuracy:.3f} below its best {best:.3f}{unknown}"
    if rules.entropy_floor is not None and curves.entropy is not None and curves.entropy < rules.entropy_floor:
        return f"entropy {curves.entropy:.4g} is below its floor {rules.entropy_floor:g}"
    if steps >= rules.min_steps and curves.still >= rules.checks:
        return (
            f"entropy {curves.entropy:.4g} and length {curves.length:.1f} stand still: over {rules.window} steps they "
            f"moved by no more than {rules.rel_entropy:g} and {rules.rel_length:g} of themselves, "
            f"{curves.still} steps in a row"
        )
    return None


def steps_left_at_most(progress: Progress, stages: Sequence[StageSection]) -> int:
    """Steps that may still come, for the progress bar, the time left and the plan."""
    left = stages[progress.stage :]
    return sum(stage.steps for stage in left) - progress.step_in_stage if left else 0


def evaluations_left_at_most(progress: Progress, stages: Sequence[StageSection], every: int | None) -> int:
    """Evaluations that may still come: at the end of this stage and of those that follow, and every so many steps."""
    last = progress.step + steps_left_at_most(progress, stages)
    return len(stages) - progress.stage + (last // every - progress.step // every if every else 0)


def is_within_stage(progress: Progress, stages: Sequence[StageSection]) -> bool:
    """Whether a stage has begun and goes on."""
    return progress.stage < len(stages) and progress.step_in_stage > 0


def reached(progress: Progress, stages: Sequence[StageSection]) -> tuple[str, int]:
    """The evaluation point that the run stands at: its name and its ordinal.

    The base is number 0; after it come the stages in order, each with its ordinal while it goes on, too.
    """
    if is_within_stage(progress, stages):
        return stages[progress.stage].name, progress.stage + 1
    return ("base", 0) if progress.stage == 0 else (stages[progress.stage - 1].name, progress.stage)
