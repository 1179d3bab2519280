"""The benchmarks run; what they measure is read by people, and what is kept of it holds what was promised."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(3100)
"""What hangs is ended; how long a busy machine takes is no verdict."""


@pytest.mark.program
@pytest.mark.parametrize(
    ("script", "arguments", "field"),
    [
        ("packing.py", ["--rounds", "1"], "karmarkar_karp"),
        ("train_step.py", ["--rounds", "1", "--tokens", "128", "--length", "64", "--preset", "toy"], "ours, ragged"),
        ("host_path.py", ["--rounds", "1", "--responses", "16"], "holds"),
        ("load.py", ["--rounds", "2", "--requests", "64", "--latency", "0.05"], "holds"),
        ("host_path_replies.py", ["--rounds", "1", "--responses", "8", "--tokens", "2000"], "holds"),
        ("grading.py", ["--answers", "300", "--busy", "1"], "holds"),
        ("weight_sync.py", ["--rounds", "1", "--layers", "1", "--hidden", "64"], "holds"),
        ("checkpoint.py", ["--rounds", "1", "--mib", "4"], "holds"),
        (
            "schedule.py",
            ["--steps=1", "--mean=512", *(f"--{w}=8, small batch" for w in ("fleets", "real", "vary"))],
            "holds",
        ),
        pytest.param("overlap.py", ["--steps=2", "--samples=16", "--rounds=1"], "holds", marks=pytest.mark.full),
    ],
)
def test_a_benchmark_runs_at_its_smallest(script: str, arguments: list[str], field: str, root: Path) -> None:
    command = [sys.executable, "-P", str(root / "benchmarks" / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stderr
    assert field in json.loads(result.stdout)


@pytest.mark.parametrize(
    "name", ["checkpoint", "grading", "host_path", "load", "overlap", "report_page", "schedule", "weight_sync"]
)
def test_the_kept_results_hold_what_was_promised(name: str, root: Path) -> None:
    kept = json.loads((root / "benchmarks" / "results" / "cpu" / f"{name}.json").read_text())
    assert kept["holds"] and all(kept["holds"].values())


def test_every_kept_row_of_a_gpu_names_its_part_and_figure_and_no_machine(root: Path) -> None:
    for file in (root / "benchmarks" / "results").glob("*/*.jsonl"):
        assert (file.parent / "README.md").exists(), "no word on card and versions"
        for line in file.read_text().splitlines():
            row = json.loads(line)
            assert row["part"] and row["name"]
            assert not any(isinstance(value, str) and value.startswith("/") for value in row.values())
