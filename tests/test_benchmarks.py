"""The benchmarks run; what they measure is read by people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "arguments", "field"),
    [
        ("packing.py", ["--rounds", "1"], "karmarkar_karp"),
        ("train_step.py", ["--rounds", "1", "--tokens", "128", "--length", "64", "--preset", "toy"], "ours"),
    ],
)
def test_a_benchmark_runs_at_its_smallest(script: str, arguments: list[str], field: str, root: Path) -> None:
    command = [sys.executable, "-P", str(root / "benchmarks" / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert field in json.loads(result.stdout)
