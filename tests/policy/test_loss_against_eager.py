"""Every option of the loss, in random company, on packed sequences of odd sizes, against float64 written out."""

import math

import pytest

from egrc_mega.policy.loss import policy_loss
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.eager_loss import LossCase, assert_matches_eager, draw_case

MANY = 160
"""Cases, in ten tests."""


@pytest.fixture(scope="module")
def cases() -> list[LossCase]:
    return [draw_case(seed) for seed in range(MANY)]


@pytest.mark.parametrize("part", range(10))
def test_loss_gradients_and_counts_are_those_of_the_formulas(part: int, cases: list[LossCase]) -> None:
    for case in cases[part::10]:
        assert_matches_eager(case)


def test_the_cases_have_every_option_and_each_of_them_acts(cases: list[LossCase]) -> None:
    words = {"ratio", "old_logprobs", "tis_ratio", "sequence_mask_ratio", "kl_kind"}
    for name in words:
        allowed = set(LossSection.model_fields[name].annotation.__args__)  # type: ignore[union-attr]
        assert {getattr(case.loss, name) for case in cases} == allowed, name
    found = [(c, policy_loss(c.logprobs_R, c.rows, c.loss, c.entropies_R).metrics) for c in cases]
    for ratio in ("token", "geometric_mean", "product"):
        weighed = [m for case, m in found if case.loss.tis_cap is not None and case.loss.tis_ratio == ratio]
        assert any(not math.isclose(m.tis_weight, m.num_tokens, rel_tol=0.01) for m in weighed), ratio
    for kind in ("geometric_mean", "product", "worst_token"):
        masks = [m for c, m in found if c.loss.sequence_mask is not None and c.loss.sequence_mask_ratio == kind]
        assert any(0 < m.num_masked < m.num_tokens for m in masks), kind
        assert any(m.num_masked_sequences == 0 for m in masks), kind
    assert any(0 < m.num_masked < m.num_tokens for c, m in found if c.loss.sequence_mask is None)
    assert any(case.rows.old_logprobs_R is None for case in cases)
    assert any(case.rows.stated_old_logprobs_R is not None for case in cases)
