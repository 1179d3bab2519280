"""The time model against published steps: fitted on four, compared with all that it can say something of."""

from dataclasses import replace
from pathlib import Path

import pytest

from egrc_mega.plan.constants import CONSTANTS
from egrc_mega.plan.fit import fit, misfit
from egrc_mega.plan.published import Row, published, rows
from egrc_mega.plan.rows_page import error, rows_page

ROWS = rows()
FITTED = [row for row in ROWS if row.is_fitted_on]
OTHERS = [row for row in ROWS if row.why_not is None and not row.is_fitted_on]
DENSE = [row for row in OTHERS if not row.is_mixture]


def test_the_constants_are_fitted_on_four_named_steps_and_nothing_else() -> None:
    assert len(FITTED) == len(published()["fitted_on"]) == 4
    assert all(row.fields["source"] == "nemo-rl 0.5" and row.why_not is None for row in FITTED)
    least = misfit(CONSTANTS, FITTED)
    assert least < 0.012
    # no constant can be moved by a twentieth without making it worse, but for what rounding leaves
    for name in ("flops_share", "bandwidth_share", "decode_overhead_s"):
        for factor in (0.9, 1.1):
            moved = replace(CONSTANTS, **{name: factor * getattr(CONSTANTS, name)})
            assert misfit(moved, FITTED) > least, (name, factor)


@pytest.mark.full
def test_fitting_again_finds_the_same_constants() -> None:
    found = fit(FITTED)
    for name in ("flops_share", "bandwidth_share", "decode_overhead_s"):
        assert getattr(found, name) == pytest.approx(getattr(CONSTANTS, name), rel=0.01)


@pytest.mark.parametrize("row", DENSE, ids=lambda row: row.name)
def test_a_published_step_of_a_dense_model_is_met_within_thirty_percent(row: Row) -> None:
    assert abs(error(row)) <= 0.3


def test_at_least_five_other_steps_hold_and_two_kinds_of_gpu_are_among_them() -> None:
    assert len(DENSE) == 8
    assert {row.fields["gpu"] for row in DENSE} == {"h100-80g", "gb200-186g"}


def test_the_page_shows_every_step_and_says_which_do_not_hold(root: Path) -> None:
    page = (root / "docs/plan.md").read_text(encoding="utf-8")
    assert rows_page() in page, "run scripts/plan_page.py"
    for row in ROWS:
        assert row.name in page
    assert page.count("does not hold") == sum(abs(error(row)) > 0.3 for row in OTHERS)
    assert page.count("| fitted on |") == 4
    assert all(other["name"] in page for other in (*published()["syncs"], *published()["not_comparable"]))


def test_every_row_says_where_it_comes_from_and_has_a_name_of_its_own() -> None:
    data = published()
    assert all(row.fields["source"] in data["sources"] for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(entry["source"] for entry in (*data["syncs"], *data["not_comparable"]))


def test_tokens_a_second_agree_with_lengths_and_times_of_the_same_row() -> None:
    """Which is how the length of prompts was found, and would show a slip in copying."""
    prompts = sorted(
        row.fields["tokens_per_s_per_gpu"] * row.fields["gpus"] * row.seconds / row.fields["responses"]
        - row.fields["mean_tokens"]
        for row in ROWS
        if row.why_not is None
    )
    assert prompts[len(prompts) // 2] == pytest.approx(published()["assumed"]["prompt_tokens"], abs=10)
    # the publisher's figures are averages of five steps; for Qwen3-235B one step off they do not fit each other
    assert prompts[0] > 90
    assert sum(prompt > 150 for prompt in prompts) <= 6
