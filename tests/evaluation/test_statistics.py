"""Intervals and L-Acc against known values."""

import math

import pytest

from egrc_mega.evaluation.statistics.intervals import Estimate, bootstrap_interval, wilson_interval
from egrc_mega.evaluation.statistics.l_acc import l_acc


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Brown, Cai and DasGupta's formula, by hand
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (233, 256, 0.8688, 0.9394)],
)
def test_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=2e-4)


def test_nothing_counted_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_bootstrap_is_reproducible_and_as_wide_as_the_standard_error_says() -> None:
    values = [float(i % 17) for i in range(400)]
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    mean = sum(values) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / 399 / 400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < mean < high


def test_constant_values_have_no_width() -> None:
    assert bootstrap_interval([3.0] * 20) == (3.0, 3.0)


def test_l_acc_is_the_papers() -> None:
    # Table 1: 36.7 at 3634 of 16927 tokens gives 32.5
    assert l_acc(36.7, 3634, 16927) == pytest.approx(32.5, abs=0.05)
    assert l_acc(0.9, 100, 100) == 0.0
    assert l_acc(0.9, 120, 100) == 0.0


def test_an_estimate_in_another_unit_has_its_interval_in_that_unit() -> None:
    assert Estimate(0.5, 0.25, 0.875).times(100) == Estimate(50.0, 25.0, 87.5)
