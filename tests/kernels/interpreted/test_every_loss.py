"""The loss kernel in Triton's interpreter on random packed cases with every option, against float64 written out."""

import pytest
from egrc_kernels.policy_loss import triton as kernel

from egrc_mega.testing.eager_loss import assert_matches_eager, draw_case


@pytest.fixture(autouse=True)
def small_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 16)
    monkeypatch.setattr(kernel, "TOTALS_BLOCK", 4)


@pytest.mark.parametrize("seed", range(80))
def test_loss_gradients_and_counts_are_those_of_the_formulas(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[object] = []
    launched = kernel.loss_gradients_metrics
    monkeypatch.setattr(kernel, "loss_gradients_metrics", lambda *args: launches.append(args) or launched(*args))
    assert_matches_eager(draw_case(seed))
    assert len(launches) == 1, "the kernel, not the reference"
