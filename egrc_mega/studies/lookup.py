"""Looks up one number of a result: a figure of an evaluation, or a mean over steps of training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from egrc_mega.evaluation.store import BASE
from egrc_mega.sections.study import POINT_METRICS
from egrc_mega.studies.records import Result

END = "end"
WINDOW = 5
"""Steps of a mean at the beginning or the end of a stage."""
When = Literal["first", "last", "highest", "lowest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Which number of a result; see `sections.study.QuantitySection`."""

    metric: str
    point: str = END
    temperature: float | None = None
    when: When = "last"

    def of(self, result: Result) -> float | None:
        """The number, or None where the result does not have it."""
        if self.metric in POINT_METRICS:
            return _of_point(result, self)
        if self.metric == "wall_s":
            return result.wall_s
        if self.metric == "steps":
            return _steps(result, self.point)
        return _of_steps(result, self)


def temperatures(results: Sequence[Result]) -> list[float]:
    """Those that any result was evaluated at, ascending."""
    return sorted({point["temperature"] for result in results for point in result.points})


def stage_names(results: Sequence[Result]) -> list[str]:
    """Names of the stages, in the order in which results have passed them."""
    return list(dict.fromkeys(stage.name for result in results for stage in result.stages))


def _of_point(result: Result, figure: Figure) -> float | None:
    found = _point(result, figure.point, figure.temperature)
    if found is None:
        return None
    if figure.metric == "length_share":
        base = _point(result, BASE, found["temperature"])
        return found["mean_length"] / base["mean_length"] if base else None
    if figure.metric == "ungraded":
        return found["num_ungraded"] / found["n"] if found["n"] else None
    value: float | None = found["mean_length" if figure.metric == "length" else figure.metric]
    return value


def _point(result: Result, name: str, temperature: float | None) -> Mapping[str, Any] | None:
    """The row of the evaluation; of a stage that stands twice the later one."""
    wanted = temperature if temperature is not None else min((p["temperature"] for p in result.points), default=None)
    rows = [point for point in result.points if point["temperature"] == wanted]
    last = max((point["ordinal"] for point in rows), default=None)
    named = [p for p in rows if (p["ordinal"] == last if name == END else p["label"] == name)]
    return max(named, key=lambda point: point["ordinal"], default=None)


def _steps(result: Result, point: str) -> float | None:
    taken = [stage.steps for stage in result.stages if point in (END, stage.name)]
    return float(sum(taken)) if taken else None


def _of_steps(result: Result, figure: Figure) -> float | None:
    stages = result.curves.get("stage", ())
    name = stages[-1] if figure.point == END and stages else figure.point
    values = result.curves.get(figure.metric, ())
    own = [value for value, stage in zip(values, stages, strict=False) if stage == name and value is not None]
    if not own:
        return None
    width = min(WINDOW, len(own))
    means = [fmean(own[i : i + width]) for i in range(len(own) - width + 1)]
    return {"first": means[0], "last": means[-1], "highest": max(means), "lowest": min(means)}[figure.when]
