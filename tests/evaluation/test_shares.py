"""Shares and lengths against closed forms: pass@1, pass@k, budgets, lengths by verdict, t quantiles."""

import math
from itertools import combinations

import numpy as np
import pytest

from egrc_mega.evaluation.statistics.budgets import accuracy_at_budgets
from egrc_mega.evaluation.statistics.intervals import wilson_interval
from egrc_mega.evaluation.statistics.lengths import mean_length, mean_length_of_right, mean_length_of_wrong
from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.statistics.shares import ks_of, pass_at_1, pass_at_k, unbiased_pass_at_k
from egrc_mega.evaluation.statistics.student_t import t_probability, t_quantile


def outcomes(*problems: str, lengths: list[float] | None = None) -> Outcomes:
    """One text a problem: `+` right, `-` wrong, `?` ungraded."""
    keys = [f"p{i}" for i, text in enumerate(problems) for _ in text]
    marks = [{"+": 1.0, "-": 0.0, "?": None}[mark] for text in problems for mark in text]
    return Outcomes.of(keys, marks, list(lengths) if lengths else [1.0] * len(keys))


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # a printed table of Student's t
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (10, 2.228), (29, 2.045), (120, 1.980)],
)
def test_t_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=6e-4)


def test_the_normal_quantile_is_the_limit_of_ts() -> None:
    assert t_quantile(10**6) == pytest.approx(1.95996, abs=1.5e-3)
    assert t_probability(1.0, 1) == pytest.approx(0.5)


def test_pass_at_1_is_the_mean_over_problems_and_its_error_is_clustered() -> None:
    share = pass_at_1(outcomes("++++", "+---", "----"))
    assert share is not None and share.clustered_error is not None and share.sampling_error is not None
    assert share.estimate.value == pytest.approx((1 + 0.25 + 0) / 3)
    assert share.clustered_error == pytest.approx(np.std([1, 0.25, 0], ddof=1) / math.sqrt(3))
    assert share.sampling_error == pytest.approx(math.sqrt(0.25 * 0.75 / 3) / 3)


def test_problems_count_alike_however_many_samples_they_have() -> None:
    share = pass_at_1(outcomes("++++++++", "-"))
    assert share is not None and share.estimate.value == 0.5


def test_samples_that_agree_within_problems_are_worth_one_sample_a_problem() -> None:
    alike = pass_at_1(outcomes(*["++++"] * 10, *["----"] * 10))
    assert alike is not None
    low, high = wilson_interval(9.5, 19, t_quantile(19))
    assert (alike.estimate.low, alike.estimate.high) == pytest.approx((low, high))


def test_samples_that_know_nothing_of_their_problem_are_worth_their_number_and_no_more() -> None:
    even = pass_at_1(outcomes(*["+-+-"] * 10))
    assert even is not None
    assert (even.estimate.low, even.estimate.high) == pytest.approx(wilson_interval(20, 40, t_quantile(9)))


def test_samples_that_agree_across_problems_by_chance_are_worth_no_more_than_their_number() -> None:
    nearly = pass_at_1(outcomes(*["+-+-"] * 19, "+---"))
    assert nearly is not None
    low, high = wilson_interval(39, 80, t_quantile(19))
    assert (nearly.estimate.low, nearly.estimate.high) == pytest.approx((low, high))


def test_with_one_sample_a_problem_the_interval_is_wilsons() -> None:
    share = pass_at_1(outcomes(*"+++---+-+-"))
    assert share is not None and share.sampling_error is None
    assert (share.estimate.low, share.estimate.high) == pytest.approx(wilson_interval(5, 10))


@pytest.mark.parametrize("marks", ["++++", "----"])
def test_an_interval_has_a_width_where_every_response_is_alike(marks: str) -> None:
    share = pass_at_1(outcomes(*[marks] * 12))
    assert share is not None
    assert share.estimate.high - share.estimate.low > 0.2


def test_ungraded_responses_are_left_out_and_without_graded_ones_there_is_no_share() -> None:
    share = pass_at_1(outcomes("+?", "??", "--"))
    assert share is not None and share.estimate.value == 0.5
    assert pass_at_1(outcomes("??")) is None
    assert pass_at_1(Outcomes.of([], [], [])) is None


@pytest.mark.parametrize(("num", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (6, 6, 2), (7, 3, 5), (16, 1, 16)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(num: int, right: int, k: int) -> None:
    subsets = list(combinations([i < right for i in range(num)], k))
    assert unbiased_pass_at_k(num, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_over_problems_is_the_mean_and_needs_k_samples_of_each() -> None:
    sampled = outcomes("+---", "++--", "----")
    share = pass_at_k(sampled, 2)
    assert share is not None
    assert share.estimate.value == pytest.approx((1 - 3 / 6 + 1 - 1 / 6 + 0) / 3)
    assert pass_at_k(sampled, 5) is None
    assert pass_at_k(outcomes("++", "+?"), 2) is None
    assert list(ks_of(sampled)) == [2, 4]


def test_a_budget_counts_what_is_right_within_it_and_spends_no_more() -> None:
    sampled = outcomes("++", "-+", "?-", lengths=[100, 300, 50, 250, 10, 400])
    small, large = accuracy_at_budgets(sampled, [200, 1000])
    # within 200: right, cut | wrong, cut | ungraded, cut
    assert small.share.estimate.value == pytest.approx((0.5 + 0 + 0) / 3)
    assert small.mean_length == pytest.approx((150 + 125 + 105) / 3)
    assert small.share_cut == pytest.approx(0.5)
    assert large.share.estimate.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert (large.mean_length, large.share_cut) == (pytest.approx((200 + 150 + 205) / 3), 0.0)


def test_a_response_that_ends_at_the_budget_is_within_it() -> None:
    [at] = accuracy_at_budgets(outcomes("+", lengths=[200]), [200])
    assert (at.share.estimate.value, at.share_cut) == (1.0, 0.0)


def test_without_all_lengths_there_are_no_budgets() -> None:
    assert accuracy_at_budgets(Outcomes.of(["a", "b"], [1, 0], [5, None])) == []


def test_lengths_of_right_and_wrong_are_told_apart() -> None:
    sampled = outcomes("++-", "--?", lengths=[1, 2, 30, 50, 70, 1000])
    right, wrong = mean_length_of_right(sampled), mean_length_of_wrong(sampled)
    assert right is not None and wrong is not None
    assert (right.value, wrong.value) == (1.5, 50.0)
    everything = mean_length(sampled)
    assert everything is not None and everything.value == pytest.approx((11 + 1120 / 3) / 2)
    assert mean_length_of_right(outcomes("--")) is None
    assert mean_length(Outcomes.of(["a"], [1], [None])) is None


def test_lengths_that_never_vary_have_an_interval_without_width() -> None:
    even = mean_length(outcomes("+-", "+-", "--", lengths=[7] * 6))
    assert even is not None and (even.low, even.value, even.high) == (7, 7, 7)


def test_one_outlier_among_equal_lengths_does_not_make_the_interval_boundless() -> None:
    found = mean_length(outcomes(*"-" * 20, lengths=[15_000] * 19 + [10_000]))
    assert found is not None
    assert 13_500 < found.low < found.value < found.high < 15_500
