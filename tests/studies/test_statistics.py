"""Means, standard errors and paired differences, worked out by hand."""

import math

import pytest

from egrc_mega.studies.statistics import Estimate, differences, estimate, ratios


def test_the_error_is_the_unbiased_deviation_by_the_root_of_the_seeds() -> None:
    # mean 3; squares of the distances 4 + 0 + 4 = 8, by n - 1 = 2 is 4, its root 2, by root 3
    found = estimate({1: 1.0, 2: 3.0, 3: 5.0})
    assert found == Estimate(3.0, pytest.approx(2 / math.sqrt(3)), 3)


def test_one_seed_has_no_error_and_none_has_no_estimate() -> None:
    assert estimate({1: 0.25}) == Estimate(0.25, None, 1)
    assert estimate({}) is None
    assert estimate({1: None}) is None


def test_a_seed_without_a_value_is_left_out_and_not_taken_for_zero() -> None:
    assert estimate({1: 2.0, 2: None, 3: 4.0}) == Estimate(3.0, pytest.approx(1.0), 2)


def test_differences_are_taken_seed_by_seed_so_that_what_the_seed_does_cancels() -> None:
    one, other = {1: 0.9, 2: 0.5, 3: 0.7}, {1: 0.8, 2: 0.4, 3: 0.6}
    found = estimate(differences(one, other))
    assert found is not None and found.mean == pytest.approx(0.1)
    # the two vary by .2 over the seeds, their differences do not vary at all
    assert found.error == pytest.approx(0.0, abs=1e-12)


def test_only_seeds_that_both_have_are_paired() -> None:
    assert differences({1: 5.0, 2: 7.0, 4: None}, {2: 4.0, 3: 9.0, 4: 1.0}) == {2: 3.0}


def test_a_ratio_leaves_out_seeds_whose_divisor_is_zero() -> None:
    assert ratios({1: 3.0, 2: 4.0}, {1: 2.0, 2: 0.0}) == {1: 1.5}
