"""The table against numbers worked out by hand."""

import math

import pytest

from egrc_mega.studies.statistics import Estimate
from egrc_mega.studies.table import build_table, plain
from egrc_mega.studies.words import Listing, markdown, number, table_listing
from egrc_mega.testing.results import point, result

RESULTS = {
    "eg": [result("eg", 1, 0.9, 30.0), result("eg", 2, 0.8, 34.0), result("eg", 3, 1.0, 35.0)],
    "ee": [result("ee", 1, 0.6, 50.0), result("ee", 3, 0.9, 61.0)],
}


def test_a_row_has_mean_error_and_the_difference_over_common_seeds() -> None:
    table = build_table(["eg", "ee", "later"], "eg", RESULTS)
    base, eg, ee, later = table.rows
    assert eg.values["accuracy_t1"].estimate == Estimate(pytest.approx(0.9), pytest.approx(0.1 / math.sqrt(3)), 3)
    assert eg.values["accuracy_t1"].difference is None
    # seeds 1 and 3: -.3 and -.1
    assert ee.values["accuracy_t1"].difference == Estimate(pytest.approx(-0.2), pytest.approx(0.1), 2)
    assert ee.values["length_share_t1"].estimate == Estimate(pytest.approx(0.555), pytest.approx(0.055), 2)
    assert later.values["accuracy_t1"].estimate is None and later.num_seeds == 0
    assert base.values["accuracy_t1"].estimate == Estimate(0.5, None, 1)
    assert base.values["entropy"].estimate is None


def test_a_setting_without_a_verdict_is_left_out_of_the_mean() -> None:
    table = build_table(["a"], "a", {"a": [result("a", 1, None, 30.0), result("a", 2, 0.5, 30.0)]})
    assert table.rows[1].values["accuracy_t1"].estimate == Estimate(0.5, None, 1)


def test_stages_have_rows_of_their_own_where_there_are_several() -> None:
    one = build_table(["eg"], "eg", RESULTS)
    assert one.stage_rows == ()
    two = result("eg", 1, 0.9, 30.0)
    second = type(two.stages[0])(name="explore", method="explore", steps=2, reason="")
    points = [*two.points, point("explore", 2, 0.95, 33.0)]
    longer = result("eg", 1, 0.9, 30.0, stages=[*two.stages, second], points=points)
    table = build_table(["eg"], "eg", {"eg": [longer]})
    shown = [(row.point, row.values["accuracy_t1"].estimate) for row in table.stage_rows]
    assert shown == [("compress", Estimate(0.9, None, 1)), ("explore", Estimate(0.95, None, 1))]


def test_the_listing_writes_percent_tokens_and_signed_differences() -> None:
    table = build_table(["eg", "ee"], "eg", RESULTS)
    listing = table_listing("", "", table.columns, table.rows, by_stage=False)
    ee = dict(zip(listing.header, listing.rows[2], strict=True))
    assert ee["accuracy % (T 1)"] == "75.0 ± 15.0 (-20.0 ± 10.0)"
    assert ee["tokens (T 1)"] == "55.5 ± 5.5 (+23.0 ± 3.0)"
    assert ee["seeds"] == "2" and listing.rows[0][1] == "-"
    assert "entropy at rollout T" not in listing.header  # nobody has measured it


def test_selected_groups_have_columns_where_a_method_has_counted_them() -> None:
    run = result("ee", 1, 0.6, 50.0)
    counted = result("ee", 1, 0.6, 50.0, curves={**run.curves, "compressing_groups": [9, 9, 10, 10, 10, 14]})
    with_them = build_table(["ee"], "ee", {"ee": [counted]})
    assert with_them.rows[1].values["compressing_groups"].estimate == Estimate(pytest.approx(53 / 5), None, 1)
    without = build_table(["ee"], "ee", {"ee": [run]})
    assert "compressing_groups" not in without.rows[1].values


def test_the_json_has_the_same_numbers_in_their_own_units() -> None:
    rows = plain(build_table(["eg", "ee"], "eg", RESULTS))
    ee = next(row for row in rows if row["setting"] == "ee")
    assert ee["figures"]["accuracy_t1"]["difference"] == {
        "mean": pytest.approx(-0.2),
        "error": pytest.approx(0.1),
        "n": 2,
    }


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert number(Estimate(-0.0001, 0.2, 3), 100, 1, sign=True) == "+0.0 ± 20.0"


def test_stages_stand_in_the_order_in_which_a_setting_has_passed_them() -> None:
    run = result("back", 1, 0.9, 30.0)
    stages = [type(run.stages[0])(name=n, method=n, steps=2, reason="") for n in ("explore", "compress")]
    back = result("back", 1, 0.9, 30.0, stages=stages)
    table = build_table(["there", "back"], "there", {"there": [run], "back": [back]})
    assert [(row.setting, row.point) for row in table.stage_rows] == [
        ("there", "compress"),
        ("back", "explore"),
        ("back", "compress"),
    ]


def test_markdown_lines_up_and_keeps_text_out_of_its_grammar() -> None:
    text = markdown(Listing("", "", ["name", "why"], [["a|b", "<script>\nx"], ["c", "d"]]))
    lines = text.splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[2] == r"| a\|b | &lt;script> x |"


def test_what_an_accuracy_leaves_out_stands_beside_it() -> None:
    judged = point("end", 1, 0.9, 30.0)
    results = {
        "eg": [result("eg", 1, 0.9, 30.0, points=[point("base", 0, 0.5, 100.0), judged | {"num_ungraded": 2}])],
        "ee": [result("ee", 1, 0.8, 50.0)],
    }
    table = build_table(["eg", "ee"], "eg", results)
    keys = [column.key for column in table.columns]
    assert keys[keys.index("accuracy_t1") + 1] == "ungraded_t1"
    shares = [row.values["ungraded_t1"].estimate for row in table.rows]
    assert shares == [Estimate(0.0, None, 1), Estimate(0.25, None, 1), Estimate(0.0, None, 1)]
    assert "ungraded_t1" not in build_table(["ee"], "ee", {"ee": results["ee"]}).rows[0].values
