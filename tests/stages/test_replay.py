"""Where rules would have ended a recorded run's stages."""

from typing import Any

import pytest

from egrc_mega.errors import RunError
from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.stages.replay import replay

RULES = {"min_steps": 1, "ema_steps": 1, "entropy_floor": 0.25}
STAGES = [CompressSection(label="a", steps=50, plateau=RULES), ExploreSection(label="b", steps=50, plateau=RULES)]


def recorded(stage: str, first: int, *entropies: float) -> list[dict[str, Any]]:
    return [
        {"step": first + i, "stage": stage, "entropy": entropy, "length": 50.0, "accuracy": 0.5}
        for i, entropy in enumerate(entropies)
    ]


def test_each_recorded_stage_is_followed_from_its_own_first_step_to_where_its_rules_end_it() -> None:
    first, second = replay([*recorded("a", 5, 0.5, 0.4, 0.2, 0.1), *recorded("b", 9, 0.6, 0.5)], STAGES)
    assert (first.stage, first.first_step, first.last_step) == ("a", 5, 8)
    assert first.switch is not None
    assert (first.switch.step, first.switch.steps_in_stage) == (7, 3)
    assert [curves.entropy for curves in first.curves] == [0.5, 0.4, 0.2]
    assert first.line() == (
        "a: recorded over steps 5 to 8; the rules end it after step 7: entropy 0.2 is below its floor 0.25"
    )
    # the second stage has curves of its own, and its rules would have gone on
    assert (second.switch, [curves.entropy for curves in second.curves]) == (None, [0.6, 0.5])
    assert second.line() == "b: recorded over steps 9 to 10; the rules would have gone on"


def test_what_cannot_be_replayed_is_refused_by_name() -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl holds no step"):
        replay([], STAGES)
    with pytest.raises(RunError, match=r"the run has recorded c, the configuration has \['a', 'b'\]"):
        replay(recorded("c", 1, 0.5), STAGES)
