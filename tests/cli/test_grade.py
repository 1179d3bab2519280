"""`egrc grade`: one response with its rungs, and files of responses."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egrc_mega.cli.main import app
from egrc_mega.errors import ConfigError, DataError

ROWS = [
    {"gold": "4", "response": "so </think> $\\boxed{4}$", "theirs": True},
    {"gold": "\\frac{1}{2}", "response": "so \\boxed{0.5}", "theirs": False},
    {"gold": "7", "response": "no box", "theirs": "false"},
]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["grade", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_one_response_is_graded_with_its_rungs() -> None:
    shown = run("--gold", "2\\sqrt{2}", "--response", "</think> $\\boxed{\\sqrt{8}}$").splitlines()
    assert shown == [
        "gold: closed form 2\\sqrt{2}",
        "extracted: \\sqrt{8}",
        "answer: \\sqrt{8}",
        "sampled: equal",
        "right: sampled",
    ]


def test_a_response_without_a_box_is_the_answer_itself_and_a_profile_may_refuse_it() -> None:
    assert run("--gold", "1024", "--response", "2^{10}").endswith("right: sampled\n")
    assert run("--gold", "1024", "--response", "2^{10}", "--profile", "amc").endswith("wrong: unevaluated\n")


@pytest.mark.parametrize("form", ["jsonl", "array", "gzip"])
def test_a_file_gets_verdicts_reasons_and_the_list_of_disagreements(tmp_path: Path, form: str) -> None:
    text = json.dumps(ROWS, indent=1) if form == "array" else "\n".join(map(json.dumps, ROWS))
    source, out = tmp_path / "responses", tmp_path / "out.jsonl"
    source.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())
    shown = run(str(source), "--out", str(out), "--verdict-key", "theirs")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{k: row[k] for k in ROWS[0]} for row in rows] == ROWS
    assert [(row["verdict"], row["reason"]) for row in rows] == [
        ("right", "equal text"),
        ("right", "numeral"),
        ("wrong", "no box"),
    ]
    assert "3 responses: 2 right, 1 wrong, 0 ungraded" in shown
    assert "1 of 3 differ from theirs" in shown
    assert "row 2: right (numeral), theirs False, gold '\\\\frac{1}{2}'" in shown


def test_where_the_prompt_opened_thinking_the_response_must_end_it(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(ROWS[1]))
    assert "1 wrong: no end of thinking" in run(str(tmp_path / "r.jsonl"), "--prompt-thinks")


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        ("{", [], DataError, "line 1: not JSON"),
        ("[1]", [], DataError, "a JSON object is expected"),
        ('{"gold": "4"}', [], DataError, "row 1: column 'response' is missing"),
        ('{"gold": "4", "response": "x"}', ["--verdict-key", "v"], DataError, "--verdict-key: column 'v' is missing"),
        ('{"gold": "4", "response": "x"}', ["--profile", "v"], ConfigError, "'v' is unknown"),
        ('{"gold": "4", "response": "x"}', ["--grader", "v"], ConfigError, "--grader: 'v' is unknown"),
        ('{"gold": "4", "response": "x"}', ["--gold", "v"], ConfigError, "without a FILE"),
    ],
)
def test_what_cannot_be_graded_is_named(
    tmp_path: Path, content: str, options: list[str], error: type[Exception], message: str
) -> None:
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(error, match=message):
        run(str(tmp_path / "r.jsonl"), *options)


def test_without_a_file_gold_and_response_are_needed_and_the_gold_must_be_understood() -> None:
    with pytest.raises(ConfigError, match="give a FILE, or --gold and --response"):
        run("--gold", "4")
    with pytest.raises(DataError, match="--gold: the answer does not parse"):
        run("--gold", "\\frac{", "--response", "4")
