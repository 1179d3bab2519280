"""`egrc data fetch` says where data sets come from, and converts what was downloaded without losing a row unsaid."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.data.reader import read
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.evaluation.known_sets import KNOWN_SETS
from egrc_mega.launch import data_sets
from egrc_mega.launch.data_sets import DATA_SETS, convert, data_set, described, files_of
from egrc_mega.sections.data import DataSection

OLYMPIAD = [
    {"question": "How far?", "final_answer": ["3"], "is_multiple_answer": False, "unit": "km", "error": None},
    {"question": "Which?", "final_answer": ["1,2"], "is_multiple_answer": True, "unit": None, "error": None},
    {"question": "About?", "final_answer": ["2.5"], "is_multiple_answer": False, "unit": None, "error": "1e-1"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def olympiad(monkeypatch: pytest.MonkeyPatch) -> data_sets.DataSet:
    return replace(DATA_SETS["olympiadbench"], rows=(3, 5))


def test_every_benchmark_and_the_recipes_training_set_are_described(root: Path) -> None:
    assert set(DATA_SETS) == {"deepscaler", *KNOWN_SETS}
    for name, each in DATA_SETS.items():
        text = "\n".join(described(each))
        for part in (f"datasets/{each.repository}", "licence", str(each.rows[0]), f"egrc data fetch {name} --from"):
            assert part in text
    for recipe in ("7b", "1p5b"):
        config = (root / f"configs/r1_distill_qwen_{recipe}.yaml").read_text()
        assert "../data/deepscaler.jsonl" in config
        assert "../data/math500.jsonl" in config


def test_a_download_becomes_a_file_that_reads_the_same(olympiad: data_sets.DataSet, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.jsonl", OLYMPIAD), tmp_path / "out/b.jsonl"
    assert convert(olympiad, source, target) == f"{target}: 3 of 3 rows"
    keys = {"prompt_key": "question", "answer_key": "final_answer"}
    before = read(source, DataSection(train=source, **keys), profile="olympiadbench").good
    after = read(target, DataSection(train=target), profile="olympiadbench").good
    assert [(p.text, p.answer, p.hints) for p in before] == [(p.text, p.answer, p.hints) for p in after]
    assert [p.hints.unit for p in after] == ["km", None, None]
    assert list(target.parent.iterdir()) == [target]


def test_rows_that_cannot_be_used_are_left_out_and_counted(olympiad: data_sets.DataSet, tmp_path: Path) -> None:
    rows = [*OLYMPIAD[:2], {"question": "No answer"}]
    said = convert(olympiad, write(tmp_path / "a.jsonl", rows), tmp_path / "b.jsonl")
    assert said == f"{tmp_path}/b.jsonl: 2 of 3 rows; 1 left out, egrc data inspect {tmp_path}/a.jsonl says why"


def test_the_files_of_a_split_are_found_in_a_folder_of_the_hub(olympiad: data_sets.DataSet, tmp_path: Path) -> None:
    part = "OE_TO_maths_en_COMP"
    wanted = [write(tmp_path / f"{part}/train-{n}.jsonl", OLYMPIAD[n : n + 1]) for n in range(3)]
    write(tmp_path / f"{part}/test-0.jsonl", OLYMPIAD)
    write(tmp_path / "TP_TO_maths/train-0.jsonl", OLYMPIAD)
    write(tmp_path / ".cache/train.json", OLYMPIAD)
    (tmp_path / "README.md").write_text("train")
    assert files_of(olympiad, tmp_path) == wanted
    assert convert(olympiad, tmp_path, tmp_path / "b.jsonl").endswith("3 of 3 rows")


def test_what_is_no_whole_download_is_refused(olympiad: data_sets.DataSet, tmp_path: Path) -> None:
    two = write(tmp_path / "two/a.jsonl", OLYMPIAD[:2])
    with pytest.raises(DataError, match="has 2 rows, olympiadbench has 3 or 5; download it whole"):
        convert(olympiad, two, tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="has no row with question and final_answer"):
        convert(olympiad, write(tmp_path / "c.jsonl", [{"x": n} for n in range(3)]), tmp_path / "b.jsonl")
    with pytest.raises(DataError, match=r"gone does not exist; download it first"):
        convert(olympiad, tmp_path / "gone", tmp_path / "b.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file of \.jsonl"):
        convert(olympiad, tmp_path / "empty", tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()
    with pytest.raises(DataError, match=r"--to: .*a\.jsonl exists already"):
        convert(olympiad, two, two)
    with pytest.raises(ConfigError, match="nonsense is unknown; choose from deepscaler, aime24"):
        data_set("nonsense")


def test_the_command_lists_describes_and_converts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from egrc_mega.cli.data import fetch

    fetch()
    assert len(capsys.readouterr().out.splitlines()) == len(DATA_SETS)
    fetch("gsm8k")
    assert "openai/gsm8k, configuration main, split test" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="give --from and --to, or neither"):
        fetch("gsm8k", source=tmp_path)
    rows = [{"question": f"{n}?", "answer": f"so #### {n}"} for n in range(1319)]
    fetch("gsm8k", source=write(tmp_path / "test.jsonl", rows), target=tmp_path / "gsm8k.jsonl")
    assert capsys.readouterr().out == f"{tmp_path}/gsm8k.jsonl: 1319 of 1319 rows\n"
    assert json.loads((tmp_path / "gsm8k.jsonl").read_text().splitlines()[7]) == {"problem": "7?", "answer": "7"}
