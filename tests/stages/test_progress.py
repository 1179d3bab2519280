"""When a stage ends: curves with a plateau, a collapse, noise and spikes; the same from every resumed place."""

import math
import random
from typing import Any

import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.progress import (
    Progress,
    Switch,
    advance,
    evaluations_left_at_most,
    reached,
    steps_left_at_most,
)

RULES = {"min_steps": 10, "window": 10, "ema_steps": 5, "checks": 3}
Record = dict[str, Any]


def stages(**rules: Any) -> list[StageSection]:
    return [CompressSection(steps=200, plateau=RULES | rules), ExploreSection(steps=5)]


def falling(step: int) -> Record:
    """Entropy and length fall towards a floor, as a compression's do; accuracy stays."""
    share = math.exp(-step / 15)
    return {"entropy": 0.2 + 0.4 * share, "length": 40 + 60 * share, "accuracy": 0.8}


def follow(records: list[Record], rules: list[StageSection], start: Progress | None = None) -> tuple[Progress, Any]:
    progress, switch = start or Progress(), None
    for record in records:
        progress, switch = advance(progress, rules, record)
        if switch:
            break
    return progress, switch


def steps_until_switch(records: list[Record], rules: list[StageSection]) -> int | None:
    _progress, switch = follow(records, rules)
    return switch.step if switch else None


def test_a_stage_with_a_number_of_steps_ends_after_them() -> None:
    rules = [CompressSection(steps=3), ExploreSection(steps=2)]
    progress, switch = follow([{}] * 3, rules)
    assert switch == Switch(ended="compress", opens="explore", step=3, steps_in_stage=3, reason="all 3 steps are done")
    assert (progress.stage, progress.step_in_stage, progress.step) == (1, 0, 3)
    progress, switch = follow([{}] * 2, rules, progress)
    assert switch is not None and switch.opens is None
    # a run that is over keeps what its last stage has had, for it may be given more steps later
    assert (progress.stage, progress.step_in_stage, progress.step) == (len(rules), 2, 5)
    assert steps_left_at_most(progress, rules) == 0


def test_the_curves_of_the_last_stage_are_kept_when_the_run_is_over_and_those_of_others_are_not() -> None:
    rules = [CompressSection(steps=3, plateau=RULES, label="a"), CompressSection(steps=2, plateau=RULES, label="b")]
    records = [{"entropy": 0.5, "length": float(step), "accuracy": 0.25} for step in range(5)]
    places, progress = [], Progress()
    for record in records:
        progress, _switch = advance(progress, rules, record)
        places.append([length for _entropy, length in progress.curves.window])
    assert [len(window) for window in places] == [1, 2, 0, 1, 2]
    assert places[-1][0] == 3.0


def test_a_plateau_ends_a_stage_and_the_reason_holds_its_numbers() -> None:
    progress, switch = follow([falling(step) for step in range(200)], stages())
    assert switch is not None
    assert 40 < switch.step < 120
    assert "stand still" in switch.reason
    assert progress == Progress(step=switch.step, stage=1)


def test_a_falling_curve_is_no_plateau() -> None:
    steep = [{"entropy": 1.0 * 0.99**step, "length": 100.0 * 0.99**step, "accuracy": 0.8} for step in range(199)]
    assert steps_until_switch(steep, stages()) is None


def test_both_curves_must_stand_still() -> None:
    only_entropy = [{"entropy": 0.3, "length": 100.0 - step / 2, "accuracy": 0.8} for step in range(150)]
    only_length = [{"entropy": 1.0 - step / 200, "length": 50.0, "accuracy": 0.8} for step in range(150)]
    assert steps_until_switch(only_entropy, stages()) is None
    assert steps_until_switch(only_length, stages()) is None


def test_a_plateau_from_the_first_step_waits_for_the_minimum() -> None:
    flat = [{"entropy": 0.3, "length": 50.0, "accuracy": 0.8}] * 100
    assert steps_until_switch(flat, stages(min_steps=30)) == 30
    assert steps_until_switch(flat, stages(min_steps=1)) == 10 + 3


def test_the_maximum_ends_what_never_stands_still() -> None:
    rng = random.Random(3)
    wild = [{"entropy": rng.uniform(0.1, 0.9), "length": rng.uniform(20, 90), "accuracy": 0.8} for _ in range(300)]
    _progress, switch = follow(wild, stages())
    assert switch is not None and switch.reason == "all 200 steps are done"


def test_noise_does_not_end_a_stage_that_still_falls_and_does_not_hide_a_plateau() -> None:
    rng = random.Random(5)

    def noisy(step: int) -> Record:
        clean = falling(step)
        return {name: value * rng.gauss(1, 0.02) for name, value in clean.items()}

    records = [noisy(step) for step in range(200)]
    found = steps_until_switch(records, stages(rel_length=0.03, rel_entropy=0.04))
    clean = steps_until_switch([falling(step) for step in range(200)], stages(rel_length=0.03, rel_entropy=0.04))
    assert found is not None and clean is not None
    assert 25 < found < clean + 60


def test_a_spike_within_the_hysteresis_does_not_start_the_count_anew() -> None:
    flat = {"entropy": 0.3, "length": 50.0, "accuracy": 0.8}
    small = flat | {"length": 50.0 * 1.08}  # moves the mean by 2.7 %: beyond 2 %, within 1.5 times that
    records = [flat] * 12 + [small] + [flat] * 40
    patient, strict = stages(min_steps=1), stages(min_steps=1, hysteresis=1.0)
    assert steps_until_switch(records, patient) < steps_until_switch(records, strict)


def test_a_collapse_of_accuracy_ends_a_stage_at_once_even_before_the_minimum() -> None:
    good = [falling(step) for step in range(8)]
    bad = [falling(8 + step) | {"accuracy": 0.2} for step in range(20)]
    _progress, switch = follow(good + bad, stages(min_steps=100))
    assert switch is not None and switch.step < 12
    assert "below its best" in switch.reason and "ungraded" not in switch.reason
    unknown = [record | {"ungraded": 0.125} for record in good + bad]
    _progress, told = follow(unknown, stages(min_steps=100))
    assert told is not None and told.reason == f"{switch.reason} (12.5% of the step's responses ungraded)"
    assert steps_until_switch(good + bad, stages(min_steps=100, accuracy_guard=None)) is None


def test_entropy_below_its_floor_ends_a_stage_at_once() -> None:
    _progress, switch = follow([falling(step) for step in range(100)], stages(min_steps=90, entropy_floor=0.35))
    assert switch is not None and switch.step < 60
    assert switch.reason.startswith("entropy 0.34") and switch.reason.endswith("is below its floor 0.35")


@pytest.mark.parametrize("hole", [None, float("nan"), float("inf"), "absent"])
def test_a_step_without_a_measurement_leaves_the_curves_where_they_were(hole: Any) -> None:
    records = [falling(step) for step in range(60)]
    for step in (7, 20, 21, 45):
        records[step] = {} if hole == "absent" else dict.fromkeys(("entropy", "length", "accuracy"), hole)
    progress, _switch = follow(records, stages(min_steps=100))
    curves = progress.curves
    assert curves.entropy is not None and math.isfinite(curves.entropy)
    assert curves.length is not None and math.isfinite(curves.length)
    assert curves.accuracy == pytest.approx(0.8)


def test_a_resume_in_the_middle_of_a_window_switches_at_the_same_step() -> None:
    records = [falling(step) for step in range(200)]
    expected = follow(records, stages())
    for stop in (1, 5, 13, 40, 41):
        progress, _switch = follow(records[:stop], stages())
        again = Progress.model_validate_json(progress.model_dump_json())
        assert again == progress
        assert follow(records[stop:], stages(), again) == expected


def test_the_next_stage_begins_with_curves_of_its_own() -> None:
    rules = [CompressSection(steps=3, plateau=RULES | {"min_steps": 1}), ExploreSection(steps=50, plateau=RULES)]
    progress, _switch = follow([falling(0)] * 3, rules)
    assert progress.curves == Progress().curves


def test_compress_and_explore_follow_each_other_in_cycles_each_ended_by_its_curves() -> None:
    kinds = {"compress": CompressSection, "explore": ExploreSection}
    names = ("compress", "explore", "compress.2", "explore.2")
    stages = [kinds[name.partition(".")[0]](label=name, steps=200, plateau=RULES) for name in names]
    progress, switches = Progress(), []
    while progress.stage < len(stages):
        # every stage moves for ten steps and stands still from then on; a place may be written down and read again
        moving = max(0, 10 - progress.step_in_stage)
        record = {"entropy": 0.3 + 0.05 * moving, "length": 40.0 + 6 * moving, "accuracy": 0.5}
        progress, switch = advance(Progress.model_validate_json(progress.model_dump_json()), stages, record)
        if switch:
            switches.append(switch)
    assert [(s.ended, s.opens) for s in switches] == [
        ("compress", "explore"),
        ("explore", "compress.2"),
        ("compress.2", "explore.2"),
        ("explore.2", None),
    ]
    assert all("stand still" in s.reason for s in switches)
    # each with curves of its own: all four take as long
    assert len({s.steps_in_stage for s in switches}) == 1 and switches[0].steps_in_stage > 10


def test_points_are_named_by_stage_and_number() -> None:
    rules = [CompressSection(steps=1, label="a"), CompressSection(steps=1, label="b")]
    points, progress = [], Progress()
    for _ in range(2):
        points.append(reached(progress, rules))
        progress, _switch = advance(progress, rules, {})
    assert [*points, reached(progress, rules)] == [("base", 0), ("a", 1), ("b", 2)]


def test_steps_left_count_what_may_still_come() -> None:
    rules = [CompressSection(steps=4), ExploreSection(steps=6)]
    progress, _switch = follow([{}] * 3, rules)
    assert steps_left_at_most(progress, rules) == 7


# at the very edge, with means that are the values themselves (a span of one step) and numbers without rounding

EXACT = {"min_steps": 1, "ema_steps": 1, "checks": 1}


@pytest.mark.parametrize(("entropy", "ends"), [(0.25, False), (0.2499, True)])
def test_the_floor_itself_is_not_below_it(entropy: float, ends: bool) -> None:
    record = {"entropy": entropy, "length": 50.0, "accuracy": 0.5}
    assert steps_until_switch([record] * 3, stages(**EXACT | {"entropy_floor": 0.25})) == (1 if ends else None)


@pytest.mark.parametrize(("accuracy", "ends"), [(0.5, False), (0.499, True)])
def test_a_fall_by_the_guard_itself_is_no_collapse(accuracy: float, ends: bool) -> None:
    records = [{"accuracy": value} for value in (0.5, 0.75, accuracy, 0.75)]
    assert steps_until_switch(records, stages(**EXACT | {"accuracy_guard": 0.25})) == (3 if ends else None)


@pytest.mark.parametrize(("field", "share"), [("length", "rel_length"), ("entropy", "rel_entropy")])
@pytest.mark.parametrize(("window", "ends"), [(4, True), (5, False)])
def test_a_move_is_measured_over_exactly_the_window_by_the_share_of_its_own_curve(
    field: str, share: str, window: int, ends: bool
) -> None:
    """One in a hundred a step: four steps are within 4.5 %, five are not."""
    still = {"entropy": 64.0, "length": 64.0, "accuracy": 0.5}
    records = [still | {field: 100.0 - step} for step in range(window + 1)]
    shares = {"rel_length": 0.0, "rel_entropy": 0.0, share: 0.045}
    switched = steps_until_switch(records, stages(**EXACT | shares | {"window": window}))
    assert switched == (window + 1 if ends else None)


def test_as_many_checks_in_a_row_as_are_asked_for_end_a_stage_and_a_move_begins_the_count_anew() -> None:
    flat, moved = ({"entropy": 0.5, "length": n, "accuracy": 0.5} for n in (64.0, 32.0))
    rules = stages(**EXACT | {"window": 2, "checks": 3})
    assert steps_until_switch([flat] * 9, rules) == 2 + 3
    # the fifth value differs from those two steps before and after it
    assert steps_until_switch([flat] * 4 + [moved] + [flat] * 9, rules) == 5 + 2 + 3


def test_a_mean_takes_two_parts_of_span_plus_one_of_a_new_value() -> None:
    records = [{"entropy": 0.0, "length": 0.0, "accuracy": 0.0}, {"entropy": 1.0, "length": 8.0, "accuracy": 1.0}]
    progress, _switch = follow(records, stages(ema_steps=3))
    assert (progress.curves.entropy, progress.curves.length, progress.curves.accuracy) == (0.5, 4.0, 0.5)
    assert progress.curves.best_accuracy == 0.5


def test_the_best_accuracy_stays_the_best() -> None:
    records = [{"accuracy": value} for value in (0.5, 0.75, 0.6875, 0.625)]
    progress, _switch = follow(records, stages(**EXACT | {"accuracy_guard": 0.25}))
    assert (progress.curves.accuracy, progress.curves.best_accuracy) == (0.625, 0.75)


def test_a_forgiven_move_adds_nothing_to_the_count_and_takes_nothing_away() -> None:
    """Beyond 2 %, within 1.5 times that: the step does not count, those before it do."""
    flat, moved = ({"entropy": 0.5, "length": n, "accuracy": 0.5} for n in (100.0, 102.5))
    rules = {"window": 2, "checks": 3, "rel_length": 0.02}
    # the third and fourth stand still, the fifth is forgiven, the sixth is the third that counts
    records = [*[flat] * 4, moved, flat, flat]
    assert steps_until_switch(records, stages(**EXACT | rules | {"hysteresis": 1.5})) == 6
    assert steps_until_switch(records, stages(**EXACT | rules | {"hysteresis": 1.0})) is None


def test_where_entropy_is_never_measured_nothing_stands_still_and_length_has_its_mean() -> None:
    records = [{"length": 50, "accuracy": 0.5}] * 20
    progress, switch = follow(records, stages(**EXACT | {"window": 2}))
    assert switch is None
    assert (progress.curves.entropy, progress.curves.length, progress.curves.window) == (None, 50.0, ())


def test_evaluations_to_come_are_the_ends_of_stages_and_what_is_due_until_the_last_step() -> None:
    rules = [CompressSection(steps=6), ExploreSection(steps=4)]
    assert evaluations_left_at_most(Progress(), rules, None) == 2
    assert evaluations_left_at_most(Progress(step=3, step_in_stage=3), rules, 3) == 2 + 2
    assert evaluations_left_at_most(Progress(step=9, stage=1, step_in_stage=3), rules, 3) == 1
