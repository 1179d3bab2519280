"""`egrc eval` on the command line: responses from elsewhere, comparisons, the paper's tables."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egrc_mega.cli.main import app
from egrc_mega.errors import ConfigError


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def responses(path: Path, right: list[bool], length: int) -> Path:
    rows = [
        {
            "problem": f"problem {i}",
            "target_answer": 4.0,
            "completion": f"so </think> \\boxed{{{4 if is_right else 5}}}",
            "output_length": length + i,
            "pass_or_fail": is_right,
        }
        for i, is_right in enumerate(right)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_responses_are_evaluated_and_compared_with_their_base(tmp_path: Path) -> None:
    base = responses(tmp_path / "base.amc83.json", [True, False, True, False, True], 1000)
    other = responses(tmp_path / "other.json", [True] * 5, 1000)
    short = responses(tmp_path / "short.amc83.json", [True, True, True, False, True], 100)
    shown = run("--responses", base, f"own={other}", "--label", "R1", "--gate", "strict", "--out", tmp_path / "r1")
    assert "R1, gate strict, verdicts ours" in shown
    assert "amc83: 5 problems, 1 sample each" in shown and "(3/5 right)" in shown
    assert "own: 5 problems" in shown and "published 5/5 right by the file's own verdicts, 0 differ" in shown
    run("--responses", short, "--gate", "strict", "--out", tmp_path / "short")
    plot = tmp_path / "pareto.svg"
    text = run("compare", tmp_path / "r1", tmp_path / "short", "--benchmarks", "amc83", "--plot", plot)
    assert "short   80.0   102" in " ".join(text.split("\n")[3].split("  ")) or "80.0   102" in text
    assert "short on amc83: length 10.2" in text
    drawn = plot.read_text()
    assert drawn.lstrip().startswith("<svg") and "accuracy against mean length on amc83" in drawn
    run("compare", tmp_path / "r1", tmp_path / "short", "--plot", plot)
    assert "accuracy against mean length on amc83" in plot.read_text()  # short knows nothing of the other set
    table = json.loads(run("compare", tmp_path / "short", "--base", tmp_path / "r1", "--format", "json"))
    assert table["base"] == "R1" and table["rows"]["short"]["amc83"]["l_acc"]["base"]["label"] == "R1"


def test_the_papers_tables_are_printed_with_six_marks() -> None:
    lines = run("paper").splitlines()
    assert len(lines) == 1 + 19 * 6 + 10 * 4
    assert sum(line.endswith("differs") for line in lines) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "--out: missing"),
        (["--out", "x"], "give one model folder, or --responses FILE"),
        (["a", "b", "--out", "x"], "give one model folder"),
        (["model", "--out", "x"], "give --benchmarks, or --config"),
        (["--responses", "a", "--gate", "lax", "--out", "x"], "--gate: 'lax' is unknown; choose from strict, opened"),
        (["compare", "x", "--format", "xml"], "--format: 'xml' is unknown"),
        (["compare", "x", "--plot", "p.pdf"], r"--plot: p.pdf must end in \.svg"),
        (["m", "--benchmarks", "aime24", "--set", "data.train=x", "--out", "x"], r"only rollout\.NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(*arguments)
