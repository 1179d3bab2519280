"""What becomes of every problem that a run asks for, and the proof that none is trained twice or lost.

A problem's place is its number since the start of the run. Below the cursor of a checkpoint every place has one fate:
trained in a step, dropped because its group teaches nothing, refused by the servers, or open, which is to say in the
checkpoint's `position.carried`. A place that is requeued begins anew and stays open; its last fate comes later.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from egrc_mega.checkpoint.retention import step_number, whole_steps
from egrc_mega.checkpoint.state_file import read_state
from egrc_mega.observe.events import read_events
from egrc_mega.sections.base import Section
from egrc_mega.stages.state import Position

KIND = "fates"
"""Of the event of each step."""
FINAL = ("trained", "dropped", "refused")
"""Fates after which a place is never asked for again."""

RESUMED = "the run was resumed"
OTHER_STAGE = "another stage has begun"
OTHER_PLAN = "its method asks for something else by now"
ABORTED = "it was aborted once enough groups were whole"
TOO_OLD = "its tokens would be older than rollout.max_staleness"


class Requeued(Section):
    """A place that begins anew."""

    place: NonNegativeInt
    """The problem's number since the start of the run."""
    reason: str
    """One of those above."""


class Fates(Section):
    """Of the places that a step has seen the end of, or begun anew."""

    trained: tuple[NonNegativeInt, ...] = ()
    """By the step."""
    dropped: tuple[NonNegativeInt, ...] = ()
    """By dynamic sampling: the group has no signal (`stages.<stage>.rollout.drop_groups`)."""
    refused: tuple[NonNegativeInt, ...] = ()
    """By the servers (`rollout.max_refused`)."""
    requeued: tuple[Requeued, ...] = ()
    """With the reason of each; a place may be there several times."""


def problems_of_fates(run_dir: Path) -> list[str]:
    """What is wrong with the fates of a run's problems by its newest checkpoint, in words; nothing where all is well.

    Raises:
        OSError: the folder has no metrics.jsonl.
    """
    whole = whole_steps(run_dir / "checkpoints")
    if not whole:
        return []
    state, step = read_state(whole[-1]), step_number(whole[-1])
    by_step = {
        event["step"]: event  # a step that was computed again after a resume counts as it was then
        for event in read_events(run_dir / "metrics.jsonl")
        if event["kind"] == KIND
    }
    missing = [number for number in range(1, step + 1) if number not in by_step]
    if missing:
        return [f"no event says what became of the problems of the steps {missing}"]
    events = [by_step[number] for number in range(1, step + 1)]
    return list(fate_problems(events, Position.model_validate(state["position"])))


def fate_problems(events: Sequence[Mapping[str, Any]], position: Position) -> Iterator[str]:
    """Where a place below the cursor has not one fate, or one above has any.

    Args:
        events: of the run's first steps, in order.
        position: after the last of them.
    """
    step = len(events)
    found: dict[int, list[str]] = {place: [] for place in range(position.cursor)}
    for number, event in enumerate(events, 1):
        for fate in FINAL:
            for place in event[fate]:
                found.setdefault(place, []).append(f"{fate} in step {number}")
    for carried in position.carried:
        found.setdefault(carried.place, []).append(f"open after step {step}")
    for place, fates in sorted(found.items()):
        if place >= position.cursor:
            yield f"problem {place} was never asked for, and is {' and '.join(fates)}"
        elif not fates:
            yield f"problem {place} is lost: neither trained, dropped nor refused by step {step}, and not open"
        elif len(fates) > 1:
            yield f"problem {place} has {len(fates)} fates: {' and '.join(fates)}"
