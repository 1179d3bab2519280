"""Benchmarks as they are shipped: found by name, read by their fields, held to their number of problems."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from egrc_mega.errors import DataError
from egrc_mega.evaluation.benchmarks import TEMPLATES, fetch_benchmark, find_benchmark, load_benchmark, problem_id
from egrc_mega.evaluation.responses import id_of_text
from egrc_mega.types import Problem


def aime(num: int = 30, times: int = 1) -> list[dict[str, Any]]:
    return [{"problem": f"Find $n + {i}$.", "answer": f"{i:03d}", "year": "2024"} for i in range(num)] * times


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "aime.json",
        "deepscaler_aime.json",
        "qwen_aime24.jsonl",
        "AIME_2024/data/train-00000.jsonl",
        "aime_2024.jsonl",
    ],
)
def test_a_known_set_is_found_in_a_folder_by_the_names_of_those_who_ship_it(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, aime())
    write(tmp_path / "amc23.jsonl", aime())
    assert find_benchmark("aime24", tmp_path) == ("aime24", path)
    assert find_benchmark(f"mine={path}", None) == ("mine", path)


def test_minerva_and_amc_are_not_mistaken_for_their_namesakes(tmp_path: Path) -> None:
    for name in ("minerva", "algebra", "amc", "amc23"):
        write(tmp_path / f"{name}.json", aime())
    found = {name: find_benchmark(name, tmp_path)[1].stem for name in ("minerva_math", "minerva_algebra", "amc83")}
    assert found == {"minerva_math": "minerva", "minerva_algebra": "algebra", "amc83": "amc"}
    assert find_benchmark("amc23", tmp_path)[1].stem == "amc23"


def test_of_a_sets_splits_the_test_counts_and_two_copies_are_a_question(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "main" / "train-0.jsonl", aime())
    test = write(tmp_path / "gsm8k" / "main" / "test-0.jsonl", aime())
    assert find_benchmark("gsm8k", tmp_path)[1] == test
    write(tmp_path / "a" / "aime24.json", aime())
    write(tmp_path / "b" / "aime24.json", aime())
    with pytest.raises(DataError, match=r"aime24.json\? give aime24=FILE"):
        find_benchmark("aime24", tmp_path)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("aime25", True, "'aime25' is unknown; choose from aime24, amc83"),
        ("aime24", False, "where aime24 is, nothing says"),
        ("aime24", True, "has no file or folder called aime24, aime_2024"),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(tmp_path: Path, name: str, folder: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_benchmark(name, tmp_path if folder else None)


def test_a_set_is_read_by_its_fields_and_each_problem_counts_once(tmp_path: Path) -> None:
    rows = [{"Problem": row["problem"], "Answer": int(row["answer"])} for row in aime(times=32)]
    found = load_benchmark("aime24", write(tmp_path / "x.jsonl", rows))
    assert (len(found.problems), found.times) == (30, 32)
    assert [problem.text for problem in found.problems] == [row["problem"] for row in aime()]
    assert found.problems[7].answer == "7" and found.problems[7].hints.profile == "aime"
    assert len(found.golds) == 30


@pytest.mark.parametrize("num", [29, 31])
def test_a_known_set_has_its_number_of_problems(tmp_path: Path, num: int) -> None:
    path = write(tmp_path / "x.jsonl", aime(num))
    with pytest.raises(DataError, match=rf"aime24 \(AIME I and II of 2024\) has 30 problems, and .* has {num}"):
        load_benchmark("aime24", path)
    assert len(load_benchmark("own", path).problems) == num
    with pytest.raises(DataError, match="has 7 problems"):
        load_benchmark("own", path, expects=7)


def test_rows_that_nobody_can_grade_are_set_aside_and_count(tmp_path: Path) -> None:
    rows = [*aime(29), {"problem": "Prove it.", "answer": "1000"}]
    found = load_benchmark("aime24", write(tmp_path / "x.jsonl", rows))
    assert (len(found.problems), len(found.set_aside)) == (29, 1)


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the usual fields"):
        load_benchmark("own", write(tmp_path / "x.jsonl", [{"a": 1}]))


def test_a_problems_identity_is_the_one_of_its_responses() -> None:
    assert problem_id(Problem(key="f:1", text="Find $n$.", answer="1")) == id_of_text(" Find $n$.\n")


def test_the_words_around_a_problem_are_those_of_the_field() -> None:
    problem = Problem(key="f:1", text="Find $n$.", answer="1")
    assert {name: template.applied(problem).text for name, template in TEMPLATES.items()} == {
        "deepscaler": "Find $n$. Let's think step by step and output the final answer within \\boxed{}.",
        "r1": "Find $n$.\nPlease reason step by step, and put your final answer within \\boxed{}.",
        "thinkless": "Please reason step by step, and put your final answer within \\boxed{}.\nFind $n$.",
        "none": "Find $n$.",
    }


def test_the_hub_is_asked_once_and_without_the_library_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets, or download the file"):
        fetch_benchmark("aime24", tmp_path)
    asked = []

    def load_dataset(*arguments: Any, split: str) -> list[dict[str, Any]]:
        asked.append((*arguments, split))
        return aime()

    library = ModuleType("datasets")
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)
    path = fetch_benchmark("aime24", tmp_path)
    assert fetch_benchmark("aime24", tmp_path) == path
    assert asked == [("HuggingFaceH4/aime_2024", None, "train")]
    assert len(load_benchmark("aime24", path).problems) == 30
