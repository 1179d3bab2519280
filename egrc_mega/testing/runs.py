"""Whole runs of the command line for tests: small, quick, from the quickstart's configuration."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
from safetensors.torch import load_file

SMALL = (
    "rollout.prompts_per_step=4",
    "stages.compress.steps=3",
    "stages.explore.steps=3",
    "stages.compress.rollout.n=4",
    "stages.explore.rollout.n=4",
    "stages.explore.rollout.temperature=0.7",
    # a reference model, which a resumed run must have again
    "stages.explore.loss.kl_coef=0.05",
    "checkpoint.every=2",
    "evaluation.num_problems=8",
    "evaluation.max_new_tokens=60",
    "grading.num_workers=1",
)
"""Six steps of sixteen responses."""


def start_run(
    root: Path, run_dir: Path, *extra: str, faults: str = "", overrides: tuple[str, ...] = ()
) -> "subprocess.Popen[str]":
    """`egrc train` on the small configuration; `extra` are options of the command."""
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(root / "configs/quickstart.yaml")]
    for override in (*SMALL, f"run.dir={run_dir}", *overrides):
        command += ["--set", override]
    environment = os.environ | {"EGRC_FAULTS": faults}
    return subprocess.Popen(
        [*command, *extra], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish_run(process: "subprocess.Popen[str]", expected: int = 0) -> str:
    """The run's output; its exit code must be the expected one."""
    output, _ = process.communicate(timeout=150)
    assert process.returncode == expected, output
    return output


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The run's events of a kind."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    return [event for event in map(orjson.loads, lines) if event["kind"] == kind]


def assert_same_weights(a: Path, b: Path) -> None:
    """Bit by bit, of the exported models."""
    left, right = (load_file(run / "export" / "model.safetensors") for run in (a, b))
    assert left.keys() == right.keys()
    different = [name for name in left if left[name].numpy().tobytes() != right[name].numpy().tobytes()]
    assert different == []
