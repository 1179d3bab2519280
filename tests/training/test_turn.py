"""The turn that a run's state asks for."""

import pytest

from egrc_mega.errors import RunError
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.thinkprune import ThinkPruneSection, ThinkPruneState
from egrc_mega.stages.progress import Progress
from egrc_mega.stages.state import RunState
from egrc_mega.training.turn import turn_of

STAGES = (ThinkPruneSection(steps=3), ExploreSection(steps=2))


def test_a_turn_has_the_state_that_the_checkpoint_kept() -> None:
    state = RunState(progress=Progress(step=2, step_in_stage=2), method={"phase": 1, "steps": 1})
    turn = turn_of(state, STAGES, 7)
    assert turn is not None
    assert (turn.step, turn.step_in_stage, turn.version, turn.opens_stage) == (2, 2, "v2", False)
    assert (turn.view.state, turn.view.step, turn.view.seed) == (ThinkPruneState(phase=1, steps=1), 2, 7)


def test_a_method_sees_the_step_of_its_own_stage_and_the_run_counts_on() -> None:
    state = RunState(progress=Progress(step=4, stage=1, step_in_stage=1))
    turn = turn_of(state, STAGES, 7)
    assert turn is not None
    assert (turn.step, turn.step_in_stage, turn.view.step, turn.stage.method) == (4, 1, 1, "explore")
    first = turn_of(RunState(progress=Progress(step=3, stage=1)), STAGES, 7)
    assert first is not None and first.opens_stage and first.next is not None
    assert (first.view.step, first.next.step, first.next.view.step) == (0, 4, 1)


def test_a_stage_that_has_not_begun_has_the_states_defaults() -> None:
    turn = turn_of(RunState(), STAGES, 7)
    assert turn is not None and turn.opens_stage
    assert turn.view.state == ThinkPruneState()


def test_a_run_that_is_over_has_no_turn() -> None:
    assert turn_of(RunState(progress=Progress(step=5, stage=2)), STAGES, 7) is None


def test_the_next_turn_is_planned_with_the_present_state_and_ends_with_the_stage() -> None:
    turn = turn_of(RunState(method={"phase": 1}), STAGES, 7)
    assert turn is not None and turn.next is not None and turn.next.next is not None
    assert (turn.next.step, turn.next.version, turn.next.view.state) == (1, "v1", ThinkPruneState(phase=1))
    assert turn.next.next.next is None


def test_a_state_of_another_method_is_refused_by_name() -> None:
    with pytest.raises(RunError, match=r"stages\.thinkprune: the checkpoint holds a state that the method thinkprune"):
        turn_of(RunState(method={"price": 3}), STAGES, 7)
