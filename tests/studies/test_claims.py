"""Claims are judged by numbers, and what has not been measured is not judged."""

import pytest

from egrc_mega.sections.study import ClaimSection
from egrc_mega.studies.claims import judge
from egrc_mega.studies.statistics import Estimate
from egrc_mega.studies.words import claims_listing
from egrc_mega.testing.results import result

RESULTS = {
    "eg": [result("eg", 1, 0.90, 30.0), result("eg", 2, 0.80, 34.0)],
    "ee": [result("ee", 1, 0.60, 50.0), result("ee", 2, 0.70, 60.0)],
}


def claim(**fields: object) -> ClaimSection:
    return ClaimSection.model_validate({"says": "so it is"} | fields)


def test_a_difference_is_judged_by_the_mean_of_its_pairs() -> None:
    of, minus = {"setting": "ee"}, {"setting": "eg"}
    (verdict,) = judge([claim(of=of, minus=minus, at_most=-0.15)], RESULTS)
    # -.3 and -.1: mean -.2, deviation root(.02), by root 2: .1
    assert verdict.measured == Estimate(pytest.approx(-0.2), pytest.approx(0.1), 2)
    assert verdict.holds is True
    (tighter,) = judge([claim(of=of, minus=minus, at_most=-0.25)], RESULTS)
    assert tighter.holds is False


def test_the_bound_itself_still_holds() -> None:
    (verdict,) = judge([claim(of={"setting": "eg", "metric": "length"}, at_least=32.0)], RESULTS)
    assert verdict.holds is True


def test_a_relative_difference_is_a_share_of_what_is_subtracted() -> None:
    of, minus = {"setting": "ee", "metric": "length"}, {"setting": "eg", "metric": "length"}
    (verdict,) = judge([claim(of=of, minus=minus, relative=True, at_most=0.7)], RESULTS)
    assert verdict.measured is not None
    assert verdict.measured.mean == pytest.approx((20 / 30 + 26 / 34) / 2)
    assert verdict.holds is False


def test_the_best_of_several_settings_is_found_by_its_mean() -> None:
    quantity = {"best_of": ["ee", "eg"], "best_by": "accuracy"}
    (verdict,) = judge([claim(of=quantity, at_least=0.8)], RESULTS)
    assert verdict.compared == ("eg",)
    assert verdict.measured is not None and verdict.measured.mean == pytest.approx(0.85)


def test_a_claim_about_cells_that_have_no_result_is_not_judged() -> None:
    (verdict,) = judge([claim(of={"setting": "later"}, at_least=0.0)], RESULTS)
    assert verdict.holds is None
    assert claims_listing([verdict]).rows[0][-2:] == ["not measured yet", "-"]


def test_the_page_says_number_bound_measurement_and_verdict() -> None:
    verdicts = judge([claim(of={"setting": "ee"}, minus={"setting": "eg"}, at_most=-0.25)], RESULTS)
    assert claims_listing(verdicts).rows == [
        [
            "so it is",
            "accuracy of ee minus accuracy of eg",
            "at most -25 points",
            "-20.0 ± 10.0 points (2 seeds)",
            "does not hold, but within its error",
        ]
    ]


def test_a_bound_nearer_than_one_standard_error_is_said_to_be_so_near() -> None:
    # -.2 with an error of .1
    near = "but within its error"
    for bound, expected in ((-0.15, f"holds, {near}"), (-0.25, f"does not hold, {near}"), (-0.05, "holds")):
        verdicts = judge([claim(of={"setting": "ee"}, minus={"setting": "eg"}, at_most=bound)], RESULTS)
        assert claims_listing(verdicts).rows[0][-1] == expected


def test_a_number_has_a_sign_only_where_it_is_a_difference() -> None:
    verdicts = judge([claim(of={"setting": "eg", "metric": "length"}, at_most=40.0)], RESULTS)
    assert claims_listing(verdicts).rows[0][3] == "32.00 ± 2.00 (2 seeds)"
