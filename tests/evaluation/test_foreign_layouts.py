"""Responses as other software writes them: verl's dumps, lm-eval's logs, plain columns, and what is none of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.errors import DataError
from egrc_mega.evaluation.layouts import sampled_responses
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.types import Grade


def read(path: Path, *rows: dict[str, Any]) -> list[SampledResponse]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(sampled_responses(path))


def test_verls_dumps_are_read_with_the_prompt_that_opens_thinking(tmp_path: Path) -> None:
    row = {"input": "user 1 + 1? assistant <think>\n", "output": "two </think> \\boxed{2}", "gts": "2", "score": 1.0}
    [found] = read(tmp_path / "1.jsonl", row | {"step": 1})
    assert (found.text, found.gold, found.verdict) == ("two </think> \\boxed{2}", "2", Grade.RIGHT)
    assert found.prompt_thinks and found.truncated is None


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [({"score": 0.0}, Grade.WRONG), ({"score": -0.3, "acc": True}, Grade.RIGHT), ({"score": 0.4}, None)],
)
def test_a_shaped_score_of_verl_is_no_verdict(tmp_path: Path, fields: dict[str, Any], verdict: Grade | None) -> None:
    [found] = read(tmp_path / "1.jsonl", {"input": "q", "output": "r"} | fields)
    assert (found.verdict, found.gold, found.prompt_thinks) == (verdict, None, None)


LM_EVAL = {
    "doc_id": 0,
    "doc": {"problem": "1 + 1?", "answer": "2"},
    "target": "2",
    "arguments": [["Problem: 1 + 1? <think>", {"do_sample": True}]],
    "resps": [["first", "second"]],
    "filtered_resps": ["2"],
    "exact_match": 1.0,
}


def test_lm_evals_rows_hold_all_repeats_and_each_filter_repeats_them(tmp_path: Path) -> None:
    rows = [LM_EVAL | {"filter": name, "doc_id": number} for number in (0, 1) for name in ("none", "flexible")]
    found = read(tmp_path / "samples.jsonl", *rows)
    assert [one.text for one in found] == ["first", "second"] * 2
    assert {(one.prompt, one.gold, one.verdict, one.prompt_thinks) for one in found} == {
        ("1 + 1?", "2", Grade.RIGHT, True)
    }


def test_lm_evals_arguments_by_name_are_read_too(tmp_path: Path) -> None:
    named = {"gen_args_0": {"arg_0": "Problem: 1 + 1?", "arg_1": {}}}
    [found, _second] = read(
        tmp_path / "s.jsonl", {k: v for k, v in LM_EVAL.items() if k != "doc"} | {"arguments": named}
    )
    assert (found.prompt, found.prompt_thinks) == ("Problem: 1 + 1?", None)


def test_plain_columns_are_read_by_their_usual_names_one_or_many_a_row(tmp_path: Path) -> None:
    single = {"question": "q", "response": "r", "answer": 3.0, "finish_reason": "length", "num_tokens": 7}
    [found] = read(tmp_path / "a.jsonl", single | {"correct": False})
    assert (found.prompt, found.text, found.gold, found.length) == ("q", "r", "3", 7)
    assert (found.truncated, found.verdict) == (True, Grade.WRONG)
    many = read(tmp_path / "b.jsonl", {"question": "q", "code": ["r", "s"], "gt": "3", "score": [True, False]})
    assert [(one.text, one.verdict, one.length) for one in many] == [("r", Grade.RIGHT, None), ("s", Grade.WRONG, None)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "q"}, r"row 1 .*its fields \['text'\] are of no known layout \(ShorterBetter by .*columns by"),
        ({"problem": "q", "response": 3}, "'response' must be a response or a list of responses, found 3"),
        ({"problem": None, "response": "r"}, "'problem' must be a text"),
        ({"input": "q", "output": None, "score": 1}, "'output' must be a text, found None"),
        (LM_EVAL | {"doc": {}, "arguments": []}, "'arguments' holds no prompt; log with --log_samples"),
        (LM_EVAL | {"resps": [[]]}, "'resps' must be a response"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.jsonl", row)
