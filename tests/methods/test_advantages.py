"""Rewards and advantages of both stages (paper 3.3, 3.4)."""

from statistics import mean, stdev

import pytest

from egrc_mega.config.schema import CompressStage, ExploreStage
from egrc_mega.methods.compress import Compress
from egrc_mega.methods.explore import Explore
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.types import FinishReason, Grade

COMPRESS = Compress(CompressStage(name="compress", clip_len=10, beta=2.0))
EXPLORE = Explore(ExploreStage(name="explore", clip_len=10, reward={"length_unit": 4}))


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
    [row] = COMPRESS.advantages([group])
    assert row[0] == pytest.approx(2.0 * 0.1**0.5)
    assert row[1] == pytest.approx(2.0 * 0.1)
    assert row[2:] == [0.0] * 5


def test_compress_subtracts_no_mean_so_an_all_right_group_stays() -> None:
    [row] = COMPRESS.advantages([make_group([make_sample(range(4))] * 3)])
    assert len(set(row)) == 1
    assert row[0] > 0


def test_explore_adds_answer_format_and_length() -> None:
    assert EXPLORE.reward(make_sample(range(10))) == pytest.approx(1.2)
    assert EXPLORE.reward(make_sample(range(12))) == pytest.approx(1.2 - 0.125)
    assert EXPLORE.reward(make_sample(range(14), grade=Grade.WRONG)) == pytest.approx(0.2 - 0.25)
    assert EXPLORE.reward(make_sample(range(14), well_formed=False)) == pytest.approx(1.0 - 0.25)
    cut = make_sample(range(100), well_formed=False, finish=FinishReason.LENGTH)
    assert EXPLORE.reward(cut) == -1.0


def test_the_default_length_unit_is_a_quarter_of_the_clip() -> None:
    method = Explore(ExploreStage(name="explore", clip_len=4096))
    sample = make_sample(range(4096 + 1024), grade=Grade.WRONG, well_formed=False)
    assert method.reward(sample) == pytest.approx(-0.25)
    assert method.max_new_tokens == 8192


def test_explore_normalises_each_group_by_its_own_mean_and_unbiased_deviation() -> None:
    groups = [
        make_group([make_sample(range(5)), make_sample(range(14)), make_sample(range(5), grade=Grade.WRONG)]),
        make_group([make_sample(range(3))] * 3),
    ]
    first, second = EXPLORE.advantages(groups)
    rewards = [1.2, 0.95, 0.2]
    assert first == pytest.approx([(r - mean(rewards)) / (stdev(rewards) + 1e-6) for r in rewards])
    assert second == [0.0, 0.0, 0.0]


def test_an_ungraded_sample_takes_no_part_in_its_group_and_gets_nothing() -> None:
    graded = [make_sample(range(5)), make_sample(range(5), grade=Grade.WRONG)]
    [alone] = EXPLORE.advantages([make_group(graded)])
    [row] = EXPLORE.advantages([make_group([graded[0], make_sample(range(5), grade=Grade.UNGRADED), graded[1]])])
    assert row == [alone[0], 0.0, alone[1]]


def test_a_group_with_one_graded_sample_gives_no_advantage() -> None:
    group = make_group([make_sample(range(5)), make_sample(range(5), grade=Grade.UNGRADED)])
    assert EXPLORE.advantages([group]) == [[0.0, 0.0]]


def test_batch_scope_compares_across_groups() -> None:
    method = Explore(ExploreStage(name="explore", clip_len=10, advantage_scope="batch"))
    groups = [make_group([make_sample(range(5))] * 2), make_group([make_sample(range(5), grade=Grade.WRONG)] * 2)]
    rewards = [1.2, 1.2, 0.2, 0.2]
    expected = [(r - mean(rewards)) / (stdev(rewards) + 1e-6) for r in rewards]
    assert [a for row in method.advantages(groups) for a in row] == pytest.approx(expected)
