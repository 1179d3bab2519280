"""Laser, -D and -DE: a right answer that keeps to a target length gets more, and targets follow the difficulty."""

from statistics import mean, stdev

import pytest

from egrc_mega.methods.laser import LaserSection
from egrc_mega.methods.laser_d import LaserDSection
from egrc_mega.methods.laser_de import LaserDeSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.methods.repeats import repeats_tokens
from egrc_mega.methods.targets import TargetsState
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import FinishReason, Grade, Group

WRONG, UNGRADED = Grade.WRONG, Grade.UNGRADED


def sized(*lengths: int, right: int) -> Group:
    """A group of which the first `right` samples are right."""
    return make_group([make_sample(range(n), grade=Grade.RIGHT if i < right else WRONG) for i, n in enumerate(lengths)])


def test_laser_pays_half_a_point_up_to_the_target() -> None:
    method = build_method(LaserSection(target=5))
    samples = [
        make_sample(range(5)),
        make_sample(range(6)),
        make_sample(range(5), grade=WRONG),
        make_sample(range(5), well_formed=False),
        make_sample(range(5), grade=WRONG, well_formed=False),
        make_sample(range(5), finish=FinishReason.LENGTH),
        make_sample(range(5), grade=UNGRADED),
    ]
    [row] = method.credit([make_group(samples)], view_of(method))
    expected = [1.5, 1.0, -0.5, -1.0, -1.0, -0.5]
    assert [credit.reward for credit in row] == [*expected, None]
    z = [(r - mean(expected)) / (stdev(expected) + 1e-6) for r in expected]
    assert [credit.advantage for credit in row] == pytest.approx([*z, 0.0], abs=1e-12)


N8 = {"rollout": {"n": 8}, "lower": 1000, "cap": 6000}
"""need: int(16/3) = 5 for high, int(8/3) = 2 for medium accuracy, 1 for low."""


def test_targets_are_the_shortest_that_enough_responses_of_a_level_keep_to() -> None:
    method = build_method(LaserDSection(**N8))
    # candidates 1000, 2024, 3048, 4072, 5096
    groups = [
        # high: 2 of 10 keep to 2024, and int(.2 * 5) = 1; only 1 of 10 keeps to 1000
        sized(900, 2000, 3000, 3000, 3000, right=5),
        sized(3000, 3000, 3000, 3000, 3000, right=5),
        # medium: 2 of 4 must keep to it: int(.5 * 2) = 1
        sized(1500, 4000, 4050, 5000, right=2),
        # low: all of them
        sized(5000, 4000, 4500, right=1),
    ]
    # 1/3 right is a low level to the monitor
    assert method.targets(groups, view_of(method)) == (5000.0, 4072.0, 2024.0)


def test_where_no_target_fits_it_is_the_longest_response_of_the_batch() -> None:
    method = build_method(LaserDSection(**N8))
    assert method.targets([sized(700, 800, right=2)], view_of(method)) == (800.0, 800.0, 800.0)
    only = make_group([make_sample(range(9), grade=UNGRADED)])
    assert method.targets([only], view_of(method)) == (0.0, 0.0, 0.0)


def test_the_level_of_a_reward_begins_at_a_third_and_that_of_a_target_beyond_it() -> None:
    method = build_method(LaserDSection(**N8))
    view = View(step=1, state=TargetsState(targets=(10.0, 20.0, 30.0)), seed=1)
    # 1 of 3 is medium, 2 of 3 is high: the first sample is right, and longer than the level below would pay for
    rows = method.credit([sized(20, 5, 5, right=1), sized(30, 5, 5, right=2), sized(10, 5, 5, 5, right=1)], view)
    assert [row[0].reward for row in rows] == [1.5, 1.5, 1.5]
    rows = method.credit([sized(21, 5, 5, right=1), sized(31, 5, 5, right=2), sized(11, 5, 5, 5, right=1)], view)
    assert [row[0].reward for row in rows] == [1.0, 1.0, 1.0]


def test_an_ill_formed_right_answer_counts_for_the_target_and_not_for_the_reward() -> None:
    method = build_method(LaserDSection(**N8))
    group = make_group([make_sample(range(900), well_formed=False), make_sample(range(1800))])
    # accuracy 1: high, and half of its responses keep to 1000: int(.5 * 5) = 2
    assert method.targets([group], view_of(method))[2] == 1000.0
    view = View(step=1, state=TargetsState(targets=(3.0, 1800.0, 3.0)), seed=1)
    assert [credit.reward for credit in method.credit([group], view)[0]] == [-1.0, 1.5]


def test_targets_are_chosen_at_the_first_step_and_then_every_so_many() -> None:
    method = build_method(LaserDSection(**N8, every=3))
    state, seen = method.State(), []
    for step in range(7):
        view = View(step=step, state=state, seed=1)
        # the batch's longest response is the target where there is no candidate below it
        metrics = method.metrics([sized(100 + step, right=1)], [], view)
        seen.append(metrics["target_high"])
        state = method.after_step(view, {f"method_{name}": value for name, value in metrics.items()})
        assert type(state).model_validate_json(state.model_dump_json()) == state
    assert seen == [100, 100, 100, 103, 103, 103, 106]


def test_laser_de_forgives_a_long_wrong_answer_that_explores() -> None:
    method = build_method(LaserDeSection(**N8))
    view = View(step=1, state=TargetsState(targets=(20.0, 20.0, 20.0)), seed=1)
    samples = [
        make_sample(range(21), grade=WRONG),
        make_sample(range(20), grade=WRONG),
        make_sample([1, 2] * 12, grade=WRONG),
        make_sample(range(21), grade=WRONG, well_formed=False),
        make_sample(range(20)),
        make_sample(range(21)),
        make_sample(range(21), grade=UNGRADED),
    ]
    [row] = method.credit([make_group(samples)], view)
    assert [credit.reward for credit in row] == [0.0, -0.5, -0.5, -1.0, 1.5, 1.0, None]


@pytest.mark.parametrize(
    ("ids", "repeats"),
    [
        # up to 29 tokens: 2 tokens twice
        ([*range(20), 3, 4], True),
        ([*range(20), 3, 5], False),
        # at most 8 tokens are never looked at, and a run of one token does not count
        ([1, 2, 1, 2, 1, 2, 1, 2], False),
        ([7] * 25, False),
        # 30 to 49: 3 tokens twice; 50 to 99: 3 tokens three times
        ([*range(30), 3, 4, 5], True),
        ([*range(60), 3, 4, 5], False),
        ([*range(60), 3, 4, 5, 100, 3, 4, 5], True),
        # 100 to 199: 4 tokens three times; from 200 on four times
        ([*range(100), 3, 4, 5, 6, 300, 3, 4, 5, 6], True),
        ([*range(200), 3, 4, 5, 6, 300, 3, 4, 5, 6], False),
        ([*range(200), 3, 4, 5, 6, 300, 3, 4, 5, 6, 301, 3, 4, 5, 6], True),
    ],
)
def test_tokens_repeat_if_a_run_of_them_stands_several_times(ids: list[int], repeats: bool) -> None:
    assert repeats_tokens(make_sample(ids)) is repeats


def test_a_smallest_target_beyond_the_largest_is_refused() -> None:
    problems = list(build_method(LaserDSection(lower=5, cap=4, rollout={"n": 1})).problems())
    assert [line.partition(":")[0] for line in problems] == ["rollout.n", "lower"]
    assert build_method(LaserDSection()).longest == 16384
