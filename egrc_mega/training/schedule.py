"""The steps of a run in order: the list of stages is the order, each with its number of steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from egrc_mega.config.schema import Stage


@dataclass(frozen=True, slots=True)
class Step:
    """One rollout batch and its updates."""

    index: int
    """Over the whole run, from 0."""
    total: int
    """Steps of the whole run."""
    index_in_stage: int
    stage: Stage
    opens_stage: bool
    closes_stage: bool
    point: tuple[str, int]
    """The evaluation point reached just before this step: `base` or the stage that has just ended, and its ordinal."""


def schedule(stages: Sequence[Stage]) -> list[Step]:
    """Every step of the run."""
    total = sum(stage.steps for stage in stages)
    steps: list[Step] = []
    point = ("base", 0)
    for ordinal, stage in enumerate(stages, start=1):
        for i in range(stage.steps):
            steps.append(Step(len(steps), total, i, stage, i == 0, i == stage.steps - 1, point))
        point = (stage.name, ordinal)
    return steps
