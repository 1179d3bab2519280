"""Responses that are there already: judged, kept, summed up, read again and put side by side."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.errors import ConfigError, DataError, RunError
from egrc_mega.evaluation.intake import CHARACTERS, OWN_TOKENS, Intake, JudgedResponse, take_in
from egrc_mega.evaluation.judging import Gate, Judging, Verdicts
from egrc_mega.evaluation.known_sets import KNOWN_SETS, named_file, profile_of
from egrc_mega.evaluation.results import Evaluation, SetResult, protocol_of, read_evaluation, write_evaluation
from egrc_mega.evaluation.side_by_side import side_by_side
from egrc_mega.evaluation.summary import summarised, summary_lines
from egrc_mega.evaluation.table_forms import FORMS, as_json, as_latex, as_markdown, as_text
from egrc_mega.grading.profiles import PROFILES

ROW = {"problem": "1 + 1?", "gold": "2", "response": "so </think> \\boxed{2}", "length": 5}


def taken(path: Path, rows: list[dict[str, Any]], judging: Judging | None = None, **more: Any) -> Intake:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judging = judging or Judging()
    with judging.pool(1) as pool:
        return take_in([path], judging, pool, **more)


FORMAT = [
    ("so </think> \\boxed{2}", {"strict": True, "opened": True, "anywhere": True}),
    ("so \\boxed{2}", {"strict": False, "opened": True, "anywhere": True}),
    ("<think> so \\boxed{2}", {"strict": False, "opened": False, "anywhere": True}),
    ("\\boxed{2} </think> forgotten", {"strict": False, "opened": False, "anywhere": True}),
    ("\\boxed{3} </think> \\boxed{2}", {"strict": True, "opened": True, "anywhere": True}),
    ("so </think> 2", {"strict": False, "opened": False, "anywhere": False}),
]


@pytest.mark.parametrize("gate", list(Gate))
def test_each_gate_takes_what_it_says(tmp_path: Path, gate: Gate) -> None:
    found = taken(tmp_path / "r.jsonl", [ROW | {"response": text} for text, _right in FORMAT], Judging(gate=gate))
    assert [one.right for one in found.judged] == [right[gate] for _text, right in FORMAT]


def test_a_response_that_a_cap_has_cut_is_wrong_but_anywhere(tmp_path: Path) -> None:
    rows = [ROW | {"length": 8}, ROW | {"length": 7}, ROW | {"finish_reason": "length", "length": 3}]
    strict = taken(tmp_path / "r.jsonl", rows, Judging(gate=Gate.STRICT, cap=8))
    assert [(one.right, one.truncated) for one in strict.judged] == [(False, True), (True, False), (False, True)]
    assert strict.judged[0].reason == "cut by the cap"
    assert all(one.right for one in taken(tmp_path / "r.jsonl", rows, Judging(gate=Gate.ANYWHERE, cap=8)).judged)
    assert taken(tmp_path / "r.jsonl", rows).judged[0].truncated is None


def test_the_publishers_verdicts_are_taken_where_they_are_wanted_and_compared_where_not(tmp_path: Path) -> None:
    rows = [ROW | {"correct": True}, ROW | {"correct": False}]
    ours = taken(tmp_path / "r.jsonl", rows)
    assert [(one.right, one.published, one.differs) for one in ours.judged] == [
        (True, True, False),
        (True, False, True),
    ]
    [difference] = ours.differences
    assert "row 2: right here (equal text), wrong in the file, gold '2'" in difference
    theirs = taken(tmp_path / "r.jsonl", rows, Judging(verdicts=Verdicts.PUBLISHED))
    assert [one.right for one in theirs.judged] == [True, False]
    with pytest.raises(DataError, match="row 1 has no published verdict"):
        taken(tmp_path / "r.jsonl", [ROW], Judging(verdicts=Verdicts.PUBLISHED))


def test_a_response_without_a_gold_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 has no gold answer.*--verdicts published"):
        taken(tmp_path / "r.jsonl", [ROW, {k: v for k, v in ROW.items() if k != "gold"}])
    with pytest.raises(DataError, match="no responses"):
        take_in([], Judging(), None)  # type: ignore[arg-type]


def test_lengths_are_the_files_or_the_tokenizers_or_characters_for_all(tmp_path: Path) -> None:
    rows = [ROW, {k: v for k, v in ROW.items() if k != "length"}]
    mixed = taken(tmp_path / "r.jsonl", rows)
    assert ([one.length for one in mixed.judged], mixed.length_unit) == ([len(ROW["response"])] * 2, CHARACTERS)
    own = taken(tmp_path / "r.jsonl", [ROW])
    assert ([one.length for one in own.judged], own.length_unit) == ([5], OWN_TOKENS)
    counted = taken(tmp_path / "r.jsonl", rows, count_tokens=lambda text: len(text.split()))
    assert [one.length for one in counted.judged] == [3, 3]


def test_unknown_graders_and_profiles_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--grader: 'mine' is unknown; choose from .*math"):
        Judging(grader="mine").pool(1)
    with pytest.raises(ConfigError, match="'aime25' is unknown"):
        Judging(profile="aime25").pool(1)


def test_memory_holds_a_batch_and_no_more_of_the_texts(tmp_path: Path) -> None:
    path, row = tmp_path / "r.jsonl", json.dumps(ROW | {"response": "x" * 20_000 + "</think> \\boxed{2}"})
    path.write_text(f"{row}\n" * 1200)
    judging = Judging()
    with judging.pool(1) as pool:
        tracemalloc.start()
        found = take_in([path], judging, pool)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(found.judged) == 1200
    assert peak < 16e6 < path.stat().st_size


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("amc83=here/x.json", "amc83", "here/x.json"),
        ("a/r1_1p5b.aime24.json.gz", "aime24", "a/r1_1p5b.aime24.json.gz"),
        ("dump/7.jsonl", "7", "dump/7.jsonl"),
        ("a=b/own.jsonl", "a", "b/own.jsonl"),
    ],
)
def test_a_files_benchmark_is_stated_or_told_by_its_name(text: str, name: str, path: str) -> None:
    assert named_file(text) == (name, Path(path))


def test_every_known_set_is_graded_by_a_profile_that_there_is() -> None:
    assert {each.profile for each in KNOWN_SETS.values()} <= PROFILES.keys()
    assert (profile_of("aime24"), profile_of("own")) == ("aime", "default")
    assert {name: each.rows[-1] for name, each in KNOWN_SETS.items()} == {
        "aime24": 30,
        "amc83": 83,
        "amc23": 40,
        "math500": 500,
        "minerva_algebra": 1187,
        "minerva_math": 272,
        "olympiadbench": 675,
        "gsm8k": 1319,
    }


def judged(problem: int, right: bool | None, length: int) -> JudgedResponse:
    return JudgedResponse(
        problem=f"p{problem:02d}",
        right=right,
        reason="numeral",
        published=None,
        length=length,
        characters=4 * length,
        truncated=False,
    )


def result(rights: list[bool | None], lengths: list[int], name: str = "own", **protocol: Any) -> SetResult:
    golds = {f"p{i:02d}": "1" for i in range(len(rights))}
    responses = [judged(i, right, length) for i, (right, length) in enumerate(zip(rights, lengths, strict=True))]
    stated = {"judging": {}, "length_unit": OWN_TOKENS, "sampling": None} | protocol
    return SetResult(name=name, protocol=protocol_of(golds, **stated), judged=responses)


def evaluation(label: str, *sets: SetResult) -> Evaluation:
    return Evaluation(label=label, model=f"label:{label}", sets={each.name: each for each in sets})


BASE = evaluation("base", result([True, False, True, True] * 5, [100, 200, 300, 400] * 5))
SHORT = evaluation("short", result([True, True, True, False] * 5, [10, 20, 30, 40] * 5))


def test_a_folder_gives_back_what_was_written_and_takes_more_benchmarks_of_its_model(tmp_path: Path) -> None:
    summary = summarised(BASE.sets["own"])
    write_evaluation(tmp_path, BASE, {"own": summary.as_json()})
    assert read_evaluation(tmp_path) == BASE
    other = evaluation("base", result([True], [3], "other"))
    write_evaluation(tmp_path, other, {})
    assert read_evaluation(tmp_path).sets.keys() == {"own", "other"}
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["sets"]["own"]["summary"]["num_right"] == 15
    assert stored["sets"]["own"]["protocol_key"] == BASE.sets["own"].protocol_key
    with pytest.raises(RunError, match="holds the evaluation of base, and this is short"):
        write_evaluation(tmp_path, SHORT, {})


def test_what_was_changed_or_torn_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no results\.json"):
        read_evaluation(tmp_path)
    write_evaluation(tmp_path, BASE, {})
    samples = tmp_path / "samples" / "own.jsonl"
    samples.write_text(samples.read_text().replace('"right":false', '"right":true', 1))
    with pytest.raises(RunError, match=r"own\.jsonl is not what .*results\.json was made of"):
        read_evaluation(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(RunError, match="is torn"):
        read_evaluation(tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "folder", BASE, {})
    (tmp_path / "folder" / "samples" / "own.jsonl").rename(tmp_path / "own.jsonl")
    results = tmp_path / "folder" / "results.json"
    results.write_text(results.read_text().replace('"own"', '"../../own"'))
    with pytest.raises(RunError, match=r"'\.\./\.\./own' is no name of a set: it leads out of samples"):
        read_evaluation(tmp_path / "folder")


def test_a_result_is_known_by_its_responses_in_whatever_order_they_came() -> None:
    found = BASE.sets["own"]
    turned = replace(found, judged=list(reversed(found.judged)))
    assert turned.result_key == found.result_key
    assert summarised(turned) == summarised(found)
    changed = replace(found, judged=[*found.judged[1:], judged(0, True, 101)])
    assert changed.result_key != found.result_key


def test_the_summary_counts_everything() -> None:
    found = summarised(result([True, False, None, True], [2000, 3000, 5000, 9000]))
    assert (found.num_right, found.num_responses, found.num_ungraded, found.num_truncated) == (2, 4, 1, 0)
    assert [round(at.share.estimate.value, 3) for at in found.budgets] == [0.25, 0.25, 0.333, 0.667, 0.667]
    text = "\n".join(summary_lines("own", found))
    assert "own: 4 problems, 1 sample each" in text
    assert "(2/3 right, 1 ungraded)" in text
    assert not summarised(result([True], [3], length_unit=CHARACTERS)).budgets


def test_two_evaluations_stand_side_by_side_with_share_l_acc_and_a_paired_test() -> None:
    table = side_by_side([BASE, SHORT], BASE)
    cell = table.rows["short"]["own"]
    assert cell.l_acc is not None and cell.comparison is not None and cell.comparison.length_ratio is not None
    assert cell.l_acc.estimate.value == pytest.approx(0.75 * 0.9**0.5)
    assert cell.l_acc.base == BASE.measured("own")
    assert cell.comparison.length_ratio.value == pytest.approx(0.1)
    assert (cell.comparison.num_better, cell.comparison.num_worse) == (5, 5)
    assert table.rows["base"]["own"].l_acc is None
    text = as_text(table)
    assert "short" in text and " 75.0    25  71.2" in text
    assert "length 10.0 [10.0, 10.0] % of the base's (p < 0.0001)" in text
    assert "(p 1; 5 better, 5 worse of 20)" in text


def test_a_base_of_another_protocol_is_no_base_and_the_fields_are_named() -> None:
    other = evaluation("other", result([True] * 20, [5] * 20, judging={"gate": "strict"}))
    with pytest.raises(DataError, match=r"own: base is no base for other, .*judging: \{'gate': 'strict'\} and \{\}"):
        side_by_side([BASE, other], BASE)
    fewer = evaluation("fewer", result([True] * 19, [5] * 19))
    with pytest.raises(DataError, match="num_problems: 19 and 20"):
        side_by_side([fewer], BASE)


def test_longer_responses_are_marked() -> None:
    longer = evaluation("longer", result([True] * 20, [500] * 20))
    text = as_text(side_by_side([longer], BASE))
    assert "  0.0*" in text and "L-Acc 0.0 [0.0, 0.0], no shorter than the base's" in text


def test_two_evaluations_of_one_name_and_unknown_benchmarks_are_refused() -> None:
    with pytest.raises(DataError, match="two evaluations are called 'base'"):
        side_by_side([replace(BASE)], BASE)
    with pytest.raises(DataError, match="none of the evaluations has 'aime24'"):
        side_by_side([], BASE, ["aime24"])


def test_every_form_of_the_table_says_the_same_and_breaks_on_no_name() -> None:
    odd = evaluation("a|b_<c>*&%", result([True] * 20, [20] * 20))
    table = side_by_side([odd], BASE)
    assert set(FORMS) == {"text", "markdown", "latex", "json"}
    rows = [line for line in as_markdown(table).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {5}
    assert "a\\|b_&lt;c>\\*&%" in rows[-1]
    latex = as_latex(table)
    assert "a|b\\_<c>*\\&\\% & 100.0 & 20 & 95.9 \\\\" in latex
    assert latex.startswith("\\begin{tabular}{lrrr}") and latex.count("\\\\") == 4
    parsed = json.loads(as_json(table))
    assert parsed["rows"]["a|b_<c>*&%"]["own"]["l_acc"]["base"]["result"] == BASE.sets["own"].result_key


def test_a_model_without_a_benchmark_leaves_its_cells_empty() -> None:
    more = evaluation("more", result([True], [3], "other"))
    table = side_by_side([more], BASE)
    assert table.benchmarks == ("own", "other")
    assert "other" not in table.rows["base"]
    assert as_text(table) and as_markdown(table) and as_latex(table)
