"""The commands of docs/plan.md, run as they stand there."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from egrc_mega.testing import forked

ROOT = Path(__file__).parents[2]


def documented_commands() -> list[list[str]]:
    """What docs/plan.md shows of `egrc plan`, as arguments."""
    page = (ROOT / "docs/plan.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line[:2] == ["egrc", "plan"]]


@pytest.mark.parametrize("arguments", documented_commands(), ids=" ".join)
def test_every_command_of_the_page_runs(arguments: list[str]) -> None:
    told = forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *arguments], cwd=ROOT)
    assert told.returncode == 0, told.stderr
    assert "GPU h" in told.stdout or json.loads(told.stdout)["possible"]


def test_the_page_has_a_command_for_every_option() -> None:
    used = {word for command in documented_commands() for word in command if word.startswith("--")}
    assert {"--gpus", "--gpu", "--rollout-gpus", "--mean-tokens", "--search", "--json", "--set"} <= used
