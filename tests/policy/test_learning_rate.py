"""Learning rates of a stage."""

import math

import pytest

from egrc_mega.policy.learning_rate import learning_rate
from egrc_mega.sections.stage import OptimSection


def rates(total: int, **options: object) -> list[float]:
    section = OptimSection(lr=1e-3, **options)
    return [learning_rate(section, update, total) for update in range(total)]


def test_the_default_is_constant_to_the_bit() -> None:
    assert rates(7) == [1e-3] * 7


def test_warm_up_rises_evenly_from_above_zero() -> None:
    assert rates(6, warmup_updates=4) == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_linear_decay_ends_at_the_minimum() -> None:
    assert rates(4, decay="linear", min_lr=2e-4) == pytest.approx([8e-4, 6e-4, 4e-4, 2e-4])


def test_cosine_decay_follows_warm_up() -> None:
    expected = [5e-4, 1e-3, *(0.5e-3 * (1 + math.cos(math.pi * i / 4)) for i in range(1, 5))]
    assert rates(6, warmup_updates=2, decay="cosine") == pytest.approx(expected, abs=1e-12)


def test_the_last_update_of_a_decay_to_zero_moves_nothing_and_the_field_says_so() -> None:
    assert rates(4, decay="linear")[-1] == rates(4, decay="cosine")[-1] == 0.0
    assert "with 0 that update moves nothing" in str(OptimSection.model_fields["min_lr"].description)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_a_minimum_above_the_rate_leaves_the_rate(decay: str) -> None:
    assert rates(3, decay=decay, min_lr=5e-3) == pytest.approx([1e-3] * 3)
