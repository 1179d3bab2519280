"""Which step was the best by an evaluation, and whether the run has seen enough: values and pure functions of them."""

from pydantic import NonNegativeInt

from egrc_mega.sections.base import Section
from egrc_mega.sections.evaluation import BestSection, StopSection


class Score(Section):
    """One evaluation by the metric that `evaluation.best` names."""

    step: NonNegativeInt
    """Of the run."""
    label: str
    """The stage that goes on or has just ended."""
    value: float | None
    """None: nothing was graded."""
    ungraded: NonNegativeInt = 0
    """Responses without a verdict."""
    n: NonNegativeInt = 0
    """Responses."""


class Best(Section):
    """The best evaluation so far. The base is none: it has no checkpoint."""

    by: BestSection | None = None
    """What it is the best by; a run that is resumed with another metric begins anew."""
    score: Score | None = None
    """None: there is none yet."""
    num_since: NonNegativeInt = 0
    """Evaluations since then."""


def follow(best: Best, by: BestSection, score: Score) -> tuple[Best, bool]:
    """The best after one more evaluation, and whether it is this one. An equal value is no better one."""
    if best.by != by:
        best = Best(by=by)
    if score.step == 0:
        return best, False
    if score.value is not None and (best.score is None or _is_better(score.value, best.score.value, by)):
        return Best(by=by, score=score), True
    return best.model_copy(update={"num_since": best.num_since + 1}), False


def _is_better(value: float, other: float | None, by: BestSection) -> bool:
    return other is None or (value > other if by.mode == "max" else value < other)


def reason_to_stop(best: Best, stop: StopSection) -> str | None:
    """Which rule ends the run, with its numbers; None: it goes on."""
    if best.by is None or best.score is None or best.score.value is None:
        return None
    value, target = best.score.value, stop.target
    if target is not None and (value == target or _is_better(value, target, best.by)):
        return f"{said(best.by, best.score)} has reached evaluation.stop.target = {target:g}"
    if stop.patience is not None and best.num_since >= stop.patience:
        return (
            f"{best.num_since} evaluations in a row were no better than that of step {best.score.step}: "
            f"{said(best.by, best.score)} (evaluation.stop.patience = {stop.patience})"
        )
    return None


def said(by: BestSection, score: Score) -> str:
    """A score in words; ungraded responses stand beside it."""
    on = f" on {by.set}" if by.set else ""
    at = f" at T {by.temperature:g}" if by.temperature else ""
    value = "-" if score.value is None else f"{score.value:.4g}"
    return f"{by.metric}{on}{at} {value} ({score.ungraded} of {score.n} ungraded)"
