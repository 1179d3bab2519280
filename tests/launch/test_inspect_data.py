"""`egrc data inspect`: a file under a configuration or under what can be guessed of it, as a page."""

import json
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.data import census as census_module
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.launch.inspect_data import inspect_data

CHAT = [{"role": "user", "content": "x"}]
GOOD = {"problem": "9 a + 1 = ?", "answer": "0"}


def page(
    file: Path, *overrides: str, config: Path | None = None, model: Path | None = None, **stated: Any
) -> list[str]:
    profile = stated.pop("profile", None)
    files = [config] if config else []
    return list(inspect_data(file, files, overrides, model=model, stated=stated, profile=profile).lines())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [{"problem": f"{n} + 1 = ?", "answer": n + 1} for n in range(12)]
    rows += [
        {"problem": "half", "answer": 0.5},
        {"problem": "bad", "answer": None},
        {"problem": "7 + 1 = ?", "answer": 9},
    ]
    rows += [{"problem": f"long {n}", "answer": "9" * (1100 + n)} for n in range(3)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_page_counts_types_and_reasons_and_names_rows(file: Path) -> None:
    lines = page(file)
    assert lines[0] == f"file     {file}: 18 rows, 5 of them quarantined"
    assert lines[1] == "keys     prompt_key: problem, answer_key: answer"
    assert "not rendered: no model" in lines[2]
    assert "integer              12   66.7%  1: 1" in lines
    assert "rational              1    5.6%  13: 0.5" in lines or "decimal               1    5.6%  13: 0.5" in lines
    reasons = lines[lines.index(next(line for line in lines if line.startswith("quarantined"))) + 1 :]
    assert reasons[0].strip() == "3  'answer' has N characters, more than N"
    assert reasons[1].strip().startswith("lines 16, 17, 18: 'answer' has 1100 characters, more than ")
    assert f"{'':<24} line 14: 'answer' must be a non-empty string or a number, found None" in reasons


def test_a_reason_of_many_rows_is_said_once_with_their_number_and_the_first_places(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([json.dumps(GOOD), *["{"] * 30]))
    *_before, head, kind, places = page(path)
    assert head.split() == ["quarantined", "rows"]
    assert kind.split()[0] == "30"
    assert places.strip().startswith("lines 2, 3, 4, 5, 6 and 25 more: ")


def test_a_long_list_of_reasons_is_cut(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_module, "MAX_REASONS", 1)
    assert page(file)[-1] == f"and 2 more reasons: egrc data inspect {file} --out FILE lists every row"


def test_with_a_model_prompts_are_rendered_and_special_tokens_seen(tmp_path: Path, base_model: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, [GOOD, {"problem": "9 a <eos>", "answer": "1"}])))
    lines = page(path, model=base_model)
    assert f"template {base_model}/chat_template.jinja: it opens the think part" in lines
    assert "prompts  8 to 8 tokens, 8.0 on average, the instruction included" in lines
    assert any("holds '<eos>', a special token" in line for line in lines)


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"prompt": CHAT, "reward_model": {"ground_truth": "1"}}, ("prompt", "reward_model.ground_truth")),
        ({"prompt": CHAT, "label": "1"}, ("prompt", "label")),
        ({"question": "x", "final_answer": ["1"], "solution": ["2"]}, ("question", "final_answer")),
        ({"question": "x", "answer": "so\n#### 1"}, ("question", "answer")),
        ({"problem": "x", "question": "x", "answer": 1.0}, ("problem", "answer")),
        ({"problem": "x", "solution": "\\boxed{1}", "answer": None}, ("problem", "solution")),
        ({"Problem": "x", "Answer": 1, "Solution": "2"}, ("Problem", "Answer")),
    ],
)
def test_without_a_configuration_the_keys_of_known_sets_are_found(
    row: dict, keys: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    lines = page(path)
    assert lines[:2] == [
        f"file     {path}: 1 rows, 0 of them quarantined",
        f"keys     prompt_key: {keys[0]}, answer_key: {keys[1]}",
    ]


def test_stated_keys_win_and_unknown_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD | {"gold": "5"}))
    assert page(path, answer_key="gold")[1] == "keys     prompt_key: problem, answer_key: gold"
    census = inspect_data(path, [], [], model=None, stated={"answer_key": "nothing"}, profile=None)
    with pytest.raises(
        DataError, match=r"1 of 1 rows are malformed, none is left.*listed in `egrc data inspect .*rows\.jsonl`"
    ):
        census.refuse_bad()


def test_a_configurations_section_counts_and_the_evaluations_for_its_benchmark(tmp_path: Path, root: Path) -> None:
    config = root / "configs/quickstart.yaml"
    train, benchmark = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    for path in (train, benchmark):
        path.write_text(json.dumps({"q": "9 a", "a": "1", "Q": "9 a + 1", "A": "2"}))
    sets = [
        "data.prompt_key=q",
        "data.answer_key=a",
        "evaluation.prompt_key=Q",
        "evaluation.answer_key=A",
        f"evaluation.data={benchmark}",
    ]
    assert page(train, *sets, config=config)[1] == "keys     prompt_key: q, answer_key: a"
    found = page(benchmark, *sets, config=config)
    assert found[1] == "keys     prompt_key: Q, answer_key: A"
    assert "opens the think part" in found[2], "the configuration's model renders"


def test_unknown_types_and_profiles_are_refused_with_the_choice(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"answer_type: 'number'.*integer"):
        page(file, answer_type="number")
    with pytest.raises(ConfigError, match="'mine' is unknown; choose from default, aime"):
        page(file, profile="mine")
