"""Rewards and advantages of both stages of the paper (3.3, 3.4)."""

from statistics import mean, stdev
from typing import Any

import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.dapo import DapoSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import Credit
from egrc_mega.methods.thinkprune import ThinkPruneSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import FinishReason, Grade, Group, Sample

COMPRESS = CompressSection(clip_len=10, beta=2.0)
EXPLORE = ExploreSection(clip_len=10, reward={"length_unit": 4})


def credits(section: StageSection, *groups: Group) -> list[list[Credit]]:
    method = build_method(section)
    return method.credit(groups, view_of(method))


def advantages(section: StageSection, *groups: Group) -> list[list[Any]]:
    return [[credit.advantage for credit in row] for row in credits(section, *groups)]


def reward(section: StageSection, sample: Sample) -> float | None:
    [[credit]] = credits(section, make_group([sample]))
    return credit.reward


def test_compress_keeps_right_well_formed_finished_responses_within_the_clip() -> None:
    group = make_group(
        [
            make_sample(range(5)),
            make_sample(range(10)),
            make_sample(range(11)),
            make_sample(range(5), grade=Grade.WRONG),
            make_sample(range(5), grade=Grade.UNGRADED),
            make_sample(range(5), well_formed=False),
            make_sample(range(5), finish=FinishReason.LENGTH),
        ]
    )
    [row] = credits(COMPRESS, group)
    assert row[0].advantage == pytest.approx(2.0 * 0.1**0.5)
    assert row[1].advantage == pytest.approx(2.0 * 0.1)
    assert row[1].reward == pytest.approx(0.1)
    assert [credit.kept for credit in row] == [True, True] + [False] * 5
    assert [credit.reward for credit in row[2:]] == [0.0, 0.0, None, 0.0, 0.0]


def test_compress_subtracts_no_mean_so_an_all_right_group_stays() -> None:
    [row] = advantages(COMPRESS, make_group([make_sample(range(4))] * 3))
    assert len(set(row)) == 1
    assert row[0] > 0


def test_explore_adds_answer_format_and_length() -> None:
    assert reward(EXPLORE, make_sample(range(10))) == pytest.approx(1.2)
    assert reward(EXPLORE, make_sample(range(12))) == pytest.approx(1.2 - 0.125)
    assert reward(EXPLORE, make_sample(range(14), grade=Grade.WRONG)) == pytest.approx(0.2 - 0.25)
    assert reward(EXPLORE, make_sample(range(14), well_formed=False)) == pytest.approx(1.0 - 0.25)
    cut = make_sample(range(100), well_formed=False, finish=FinishReason.LENGTH)
    assert reward(EXPLORE, cut) == -1.0


def test_a_reward_is_the_sum_of_its_named_terms() -> None:
    [[credit]] = credits(EXPLORE, make_group([make_sample(range(12))]))
    assert credit.terms == pytest.approx({"format": 0.2, "answer": 1.0, "length": -0.125})
    assert credit.reward == pytest.approx(sum(credit.terms.values()))


def test_explore_takes_further_terms_by_name() -> None:
    more = [{"reward": "overlong", "start": 8, "buffer": 4, "weight": 0.5}, {"reward": "accuracy"}]
    section = ExploreSection(clip_len=10, reward={"more": more})
    [[credit]] = credits(section, make_group([make_sample(range(10))]))
    assert credit.terms["more_overlong"] == pytest.approx(0.5 * -0.5)
    assert credit.terms["more_accuracy"] == 1.0
    assert credit.reward == pytest.approx(1.2 - 0.25 + 1.0)


def test_the_default_length_unit_is_a_quarter_of_the_clip() -> None:
    section = ExploreSection(clip_len=4096)
    sample = make_sample(range(4096 + 1024), grade=Grade.WRONG, well_formed=False)
    assert reward(section, sample) == pytest.approx(-0.25)
    assert build_method(section).longest == 8192


def test_explore_normalises_each_group_by_its_own_mean_and_unbiased_deviation() -> None:
    groups = [
        make_group([make_sample(range(5)), make_sample(range(14)), make_sample(range(5), grade=Grade.WRONG)]),
        make_group([make_sample(range(3))] * 3),
    ]
    first, second = advantages(EXPLORE, *groups)
    rewards = [1.2, 0.95, 0.2]
    assert first == pytest.approx([(r - mean(rewards)) / (stdev(rewards) + 1e-6) for r in rewards])
    assert second == [0.0, 0.0, 0.0]


def test_a_sample_with_advantage_zero_is_dropped_and_its_reward_still_counts() -> None:
    [row] = credits(EXPLORE, make_group([make_sample(range(3))] * 3))
    assert [(credit.kept, credit.reward) for credit in row] == [(False, 1.2)] * 3


def test_an_ungraded_sample_takes_no_part_in_its_group_and_gets_nothing() -> None:
    graded = [make_sample(range(5)), make_sample(range(5), grade=Grade.WRONG)]
    [alone] = advantages(EXPLORE, make_group(graded))
    ungraded = make_sample(range(5), grade=Grade.UNGRADED)
    [row] = credits(EXPLORE, make_group([graded[0], ungraded, graded[1]]))
    assert [credit.advantage for credit in row] == [alone[0], 0.0, alone[1]]
    assert (row[1].kept, row[1].reward) == (False, None)


def test_a_group_with_one_graded_sample_gives_no_advantage() -> None:
    group = make_group([make_sample(range(5)), make_sample(range(5), grade=Grade.UNGRADED)])
    assert advantages(EXPLORE, group) == [[0.0, 0.0]]


def test_batch_scope_compares_across_groups() -> None:
    section = ExploreSection(clip_len=10, advantage_scope="batch")
    groups = [make_group([make_sample(range(5))] * 2), make_group([make_sample(range(5), grade=Grade.WRONG)] * 2)]
    rewards = [1.2, 1.2, 0.2, 0.2]
    expected = [(r - mean(rewards)) / (stdev(rewards) + 1e-6) for r in rewards]
    assert [a for row in advantages(section, *groups) for a in row] == pytest.approx(expected)


def test_equal_rewards_that_are_no_binary_fractions_give_no_advantage() -> None:
    """Their mean may differ from them in the last bit; divided by a tiny deviation that would be an advantage."""
    section = ExploreSection(clip_len=10, reward={"format": 0.1, "answer": 0.7})
    assert advantages(section, make_group([make_sample(range(5))] * 7)) == [[0.0] * 7]


NEARLY_EQUAL = make_group([make_sample(range(5))] * 7 + [make_sample(range(11))])
"""All right, one of them a token beyond L."""


def test_without_a_deviation_a_difference_counts_as_much_as_the_reward_says() -> None:
    penalty = 0.25 / 4
    by_std, mean_only, floored = (
        advantages(EXPLORE.model_copy(update=fields), NEARLY_EQUAL)[0]
        for fields in ({}, {"advantage_normalisation": "mean_only"}, {"advantage_min_std": 0.5})
    )
    assert by_std[-1] == pytest.approx(-(8**0.5) * 7 / 8, rel=1e-3)  # a whole deviation and more, for one token
    assert mean_only == pytest.approx([penalty / 8] * 7 + [-penalty * 7 / 8])
    assert floored == pytest.approx([advantage / (0.5 + 1e-6) for advantage in mean_only])


def test_the_floor_leaves_larger_deviations_as_they_are() -> None:
    group = make_group([make_sample(range(5)), make_sample(range(5), grade=Grade.WRONG)])
    low = EXPLORE.model_copy(update={"advantage_min_std": 0.1})
    assert advantages(low, group) == advantages(EXPLORE, group)


def test_dapo_has_the_same_normalisations() -> None:
    group = make_group([make_sample(range(5)), make_sample(range(5), grade=Grade.WRONG)])
    mean_only = DapoSection(advantage_normalisation="mean_only")
    assert advantages(mean_only, group) == [[1.0, -1.0]]
    assert advantages(DapoSection(advantage_min_std=4.0), group)[0] == pytest.approx([0.25, -0.25])


def test_equal_rewards_give_no_advantage_without_a_deviation_either() -> None:
    fields = {"reward": {"format": 0.1, "answer": 0.7}, "advantage_normalisation": "mean_only"}
    section = ExploreSection(clip_len=10, **fields)
    assert advantages(section, make_group([make_sample(range(5))] * 7)) == [[0.0] * 7]


@pytest.mark.parametrize("section", [ExploreSection, DapoSection, ThinkPruneSection])
def test_a_group_of_one_is_refused_where_the_group_is_the_statistic(section: type[StageSection]) -> None:
    [problem] = build_method(section(rollout={"n": 1})).problems()
    assert problem.startswith("rollout.n: 1, but a group of one has no statistics")
    assert list(build_method(section(rollout={"n": 2})).problems()) == []


def test_a_group_of_one_will_do_where_the_batch_is_the_statistic() -> None:
    assert list(build_method(ExploreSection(rollout={"n": 1}, advantage_scope="batch")).problems()) == []
    assert list(build_method(CompressSection(rollout={"n": 1})).problems()) == []
