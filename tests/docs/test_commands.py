"""Every command in README.md and docs/ is known to the program, and is run: here, as a dry run, or by the test named.

A command with a placeholder (RUN, FILE, MODEL) or that needs servers is parsed here, option by option; `ELSEWHERE` says
who runs it. One that trains is made a dry run, with the sizes of its model and ten problems.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from egrc_mega.cli.default_command import DEFAULT
from egrc_mega.cli.main import app
from egrc_mega.convert.presets import PRESETS

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^\s*(?:\.venv/bin/)?(egrc [a-z].*|bash scripts/.*)$", re.MULTILINE)
HERE = ("config explain", "config schema", "config show", "data fetch", "eval paper", "grade", "convert inspect")
"""Run as they stand; those with a placeholder are parsed."""
ELSEWHERE = {
    "bench kernels": "bench/test_kernels.py",
    "convert hf-to-megatron": "cli/test_cli.py",
    "convert megatron-to-hf": "cli/test_cli.py",
    "convert verify": "cli/test_cli.py",
    "credit": "methods/test_recorded.py",
    "data inspect": "cli/test_cli.py",
    "diagnose": "diagnosis/test_diagnose.py",
    "doctor": "cli/test_cli.py",
    "eval compare": "cli/test_eval.py",
    "eval measure": "cli/test_eval.py",
    "export": "launch/test_export_step.py",
    "grade": "cli/test_grade.py",
    "init": "launch/test_new_config.py",
    "plan": "plan/test_documented.py",
    "publish": "training/test_whole_run.py",
    "report": "cli/test_cli.py",
    "rollouts": "observe/test_rollouts.py",
    "soak": "soak/test_laws.py",
    "serve": "launch/test_serve.py",
    "serve status": "launch/test_serve.py",
    "stages replay": "stages/test_replay.py",
    "status": "launch/test_status.py",
    "stop": "launch/test_status.py",
    "study": "studies/test_worker.py",
    "top": "launch/test_top.py",
    "trace": "observe/test_trace.py",
    "track": "trackers/test_trackers.py",
    "watch": "report/test_watch.py",
}
"""Below tests/: who runs what a command does."""
PRESET_OF = {"7b": "deepseek-r1-distill-qwen-7b", "1p5b": "deepseek-r1-distill-qwen-1.5b"}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[str]:
    """Each once, without its comment."""
    found: dict[str, None] = {}
    for page in pages():
        for line in COMMAND.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
            found |= dict.fromkeys(part.strip() for part in re.split(r"\s#|&&", line)[:2] if "#" not in part[:1])
    yield from (line for line in found if line.startswith(("egrc ", "bash ")))


def words_of(line: str) -> list[str]:
    """Arguments, with optional ones in brackets taken, and with numbers where numbers are meant."""
    words = shlex.split(line.replace("[", " ").replace("] ", " ").rstrip("]") if "'" not in line else line)[1:]
    return ["7" if word in ("N", "K") else word for word in words]


def parsed(words: list[str]) -> str:
    """The name of the command whose options and arguments these are."""
    command: Any = get_command(app)
    name: list[str] = []
    while children := getattr(command, "commands", {}):
        if words and words[0] in children:
            name, command, words = [*name, words[0]], children[words[0]], words[1:]
        elif DEFAULT in children:  # `egrc eval MODEL`
            name, command = [*name, DEFAULT], children[DEFAULT]
        else:  # `egrc serve`, which is a command itself
            break
    command.make_context(" ".join(name), list(words))
    return " ".join(name)


EGRC = [line for line in commands() if line.startswith("egrc ") and "..." not in line]
TRAINING = [line for line in EGRC if line.startswith("egrc train") and "CONFIG" not in line]


@pytest.mark.parametrize("line", EGRC)
def test_a_command_of_the_pages_is_known_and_somebody_runs_it(line: str) -> None:
    name = parsed(words_of(line))
    if name in ELSEWHERE:
        assert (ROOT / "tests" / ELSEWHERE[name]).is_file()
    else:
        assert name in HERE or name == "train", f"who runs egrc {name}?"


@pytest.mark.parametrize("line", [line for line in EGRC if line.startswith(tuple(f"egrc {name}" for name in HERE))])
def test_a_command_that_needs_nothing_runs_as_it_stands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if re.search(r"\b[A-Z]{2,}\b|\bX\b", line):
        return
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, words_of(line))
    assert result.exit_code == 0, result.output
    assert result.output.strip()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For a recipe of a real model its config.json without weights; ten problems for all."""
    base = tmp_path_factory.mktemp("stand_ins")
    data = base / "ten.jsonl"
    data.write_text(
        "\n".join(json.dumps({"problem": f"{n} a + 1 = ?", "answer": str((n + 1) % 10)}) for n in range(10))
    )
    found = {"data": str(data)}
    for recipe, preset in PRESET_OF.items():
        (base / recipe).mkdir()
        (base / recipe / "config.json").write_text(json.dumps(PRESETS[preset]))
        found[recipe] = str(base / recipe)
    return found


@pytest.mark.parametrize("line", TRAINING)
def test_a_command_that_trains_passes_its_dry_run(
    line: str, stand_ins: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    data = stand_ins["data"]
    sets = [f"run.dir={tmp_path}/run", f"data.train={data}", f"evaluation.data={data}"]
    recipe = re.search(r"r1_distill_qwen_(7b|1p5b)", line)
    sets += [f"model.path={stand_ins[recipe[1]]}"] if recipe else []
    given = [word for word in words_of(line) if word not in ("--resume", "--fresh", "--supervise", "--dry-run")]
    result = CliRunner().invoke(app, [*given, *(part for one in sets for part in ("--set", one)), "--dry-run"])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    assert "layout " in result.output


def test_scripts_that_the_pages_name_are_there() -> None:
    lines = [line for line in commands() if line.startswith("bash ")]
    assert len(lines) >= 4
    for line in lines:
        assert (ROOT / shlex.split(line.replace("[", "").replace("]", ""))[1]).is_file(), line


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in pages()[1:]:
        assert page.name == "README.md" or f"({page.name}" in index, f"docs/README.md does not lead to {page.name}"
