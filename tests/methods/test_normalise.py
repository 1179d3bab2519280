"""Normalisers against their formulas, and what they make of ungraded samples and of equal rewards."""

from statistics import fmean, mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egrc_mega.methods.normalise import centred, itself, leave_one_out, over_batch, over_groups, z_score
from egrc_mega.methods.records import Credit
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.types import Grade, Sample

REWARDS = st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=1, max_size=7)


@given(REWARDS)
def test_itself_is_the_reward(rewards: list[float]) -> None:
    assert list(itself(rewards)) == rewards


@given(REWARDS)
def test_centred_subtracts_the_mean_and_divides_by_nothing(rewards: list[float]) -> None:
    assert list(centred(rewards)) == pytest.approx([r - mean(rewards) for r in rewards])


@given(REWARDS)
def test_leave_one_out_subtracts_the_mean_of_the_others(rewards: list[float]) -> None:
    expected = [
        rewards[i] - mean(rewards[:i] + rewards[i + 1 :]) if len(rewards) > 1 else 0.0 for i in range(len(rewards))
    ]
    assert list(leave_one_out(rewards)) == pytest.approx(expected, abs=1e-12)


@given(REWARDS, st.sampled_from([1e-6, 0.5]))
def test_z_score_divides_by_the_unbiased_deviation_plus_eps(rewards: list[float], eps: float) -> None:
    found = list(z_score(eps)(rewards))
    if len(rewards) < 2 or len(set(rewards)) == 1:
        assert found == [0.0] * len(rewards)
    else:
        assert found == pytest.approx([(r - fmean(rewards)) / (stdev(rewards) + eps) for r in rewards])


@pytest.mark.parametrize("count", [2, 3, 6, 9, 12])
@pytest.mark.parametrize("reward", [0.1, 0.2, 0.7, 0.998, -1.1, 1.2])
def test_equal_rewards_teach_exactly_nothing_although_their_mean_may_round(reward: float, count: int) -> None:
    """The mean of three 0.1 is not 0.1: its difference over eps would be an advantage, and keep every sample."""
    assert fmean([0.1] * 3) != 0.1
    for normalise in (z_score(), z_score(1e-6, 0.1), centred, leave_one_out):
        assert list(normalise([reward] * count)) == [0.0] * count


def by_length(sample: Sample) -> dict[str, float]:
    return {"length": float(sample.length), "one": 1.0}


UNGRADED = make_sample(range(9), grade=Grade.UNGRADED)
GROUPS = [
    make_group([make_sample(range(2)), UNGRADED, make_sample(range(4))]),
    make_group([make_sample(range(9)), make_sample(range(3), grade=Grade.WRONG)]),
]


def values(rows: list[list[Credit]], name: str) -> list[list]:
    return [[getattr(credit, name) for credit in row] for row in rows]


def test_over_groups_compares_within_the_group_and_leaves_out_what_is_ungraded() -> None:
    rows = over_groups(GROUPS, by_length, centred)
    assert values(rows, "advantage") == [[-1.0, 0.0, 1.0], [3.0, -3.0]]
    assert values(rows, "reward") == [[3.0, None, 5.0], [10.0, 4.0]]
    assert values(rows, "kept") == [[True, False, True], [True, True]]
    assert rows[0][1].terms == {}
    assert rows[1][0].terms == {"length": 9.0, "one": 1.0}


def test_over_batch_compares_all_graded_samples_and_gives_each_group_its_own() -> None:
    rows = over_batch(GROUPS, by_length, centred)
    assert values(rows, "reward") == [[3.0, None, 5.0], [10.0, 4.0]]
    assert values(rows, "advantage") == [[-2.5, 0.0, -0.5], [4.5, -1.5]]


@pytest.mark.parametrize("over", [over_groups, over_batch])
def test_an_advantage_of_zero_is_dropped_and_its_reward_kept_for_the_record(over) -> None:
    groups = [make_group([make_sample(range(3)), make_sample(range(3))])]
    [row] = over(groups, by_length, centred)
    assert [(credit.advantage, credit.kept, credit.reward) for credit in row] == [(0.0, False, 4.0)] * 2


@pytest.mark.parametrize("over", [over_groups, over_batch])
def test_a_group_without_a_verdict_is_dropped_whole(over) -> None:
    rows = over([make_group([UNGRADED, UNGRADED])], by_length, z_score())
    assert values(rows, "kept") == [[False, False]]
    assert values(rows, "reward") == [[None, None]]


def test_a_negative_advantage_is_kept() -> None:
    [row] = over_groups([GROUPS[1]], by_length, leave_one_out)
    assert [(credit.advantage, credit.kept) for credit in row] == [(6.0, True), (-6.0, True)]
