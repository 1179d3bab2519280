"""The paper's tables as data, held against the paper's own identities."""

import pytest

from egrc_mega.evaluation.paper import BENCHMARKS, ROUNDING, table_1, table_2

DISAGREE = {
    ("AutoThink", "AMC"): 60.98,
    ("AutoThink", "OlympiadBench"): 39.32,
    ("AdaptThink", "OlympiadBench"): 40.25,
    ("Laser", "OlympiadBench"): 43.01,
    ("LC-R1", "OlympiadBench"): 39.19,
    ("EGRC", "OlympiadBench"): 47.50,
}


def test_66_of_the_72_printed_l_accs_are_the_formulas_and_six_are_not() -> None:
    cells = [cell for cell in table_1() if cell.l_acc is not None]
    assert len(cells) == 72
    differing = {(c.model, c.benchmark): c.recomputed for c in cells if c.disagrees}
    assert differing == pytest.approx(DISAGREE, abs=0.01)
    assert all(cell.size == "7B" for cell in cells if cell.disagrees)
    others = [abs(c.l_acc - c.recomputed) for c in cells if not c.disagrees and c.l_acc and c.recomputed]
    assert len(others) == 66 and max(others) < 0.08 < ROUNDING < 0.27


def test_the_five_of_olympiadbench_were_made_with_the_smaller_bases_length() -> None:
    wrong = [c for c in table_1() if c.disagrees and c.benchmark == "OlympiadBench"]
    assert len(wrong) == 5
    for cell in wrong:
        assert cell.accuracy * (1 - cell.length / 11236) ** 0.5 == pytest.approx(cell.l_acc, abs=0.15)


def test_every_row_has_all_benchmarks_and_the_accuracies_are_counts_of_problems() -> None:
    cells = table_1()
    assert len(cells) == 19 * len(BENCHMARKS)
    for cell in cells:
        if cell.l_acc is not None and cell.benchmark in ("AIME24", "AMC"):
            num = {"AIME24": 30, "AMC": 83}[cell.benchmark]
            assert abs(cell.accuracy - 100 * round(cell.accuracy * num / 100) / num) <= 0.051


def test_table_2_repeats_table_1_where_they_are_the_same_model() -> None:
    first = {(c.model, c.benchmark): (c.accuracy, c.length) for c in table_1() if c.size == "1.5B"}
    second = {(c.model, c.benchmark): (c.accuracy, c.length) for c in table_2()}
    assert len(second) == 40
    for benchmark in BENCHMARKS[:4]:
        assert second["base", benchmark] == first["R1-Distill-Qwen2.5-1.5B", benchmark]
        for same in ("compress-then-explore", "clip-4096", "exponential"):
            assert second[same, benchmark] == first["EGRC", benchmark]
    assert all(cell.recomputed is None for cell in table_2() if cell.model == "base")
    assert all(cell.recomputed for cell in table_2() if cell.model != "base")
