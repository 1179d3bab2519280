"""Whole runs of the command line for tests: small, quick, from the quickstart's configuration."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import psutil

from egrc_mega.soak.laws import require_cause, require_end
from egrc_mega.testing.forked import popen

SMALL_RUN = (
    "rollout.prompts_per_step=4",
    "checkpoint.every=2",
    "evaluation.num_problems=8",
    "evaluation.max_new_tokens=60",
    "grading.num_workers=1",
)
SMALL = (
    *SMALL_RUN,
    "stages.compress.steps=3",
    "stages.explore.steps=3",
    "stages.compress.rollout.n=4",
    "stages.explore.rollout.n=4",
    "stages.explore.rollout.temperature=0.7",
    # a reference model, which a resumed run must have again
    "stages.explore.loss.kl_coef=0.05",
)
"""Six steps of sixteen responses."""
GUARD = "egrc_mega.rollout.start.guard"


def start_run(
    root: Path,
    run_dir: Path,
    *extra: str,
    faults: str = "",
    overrides: tuple[str, ...] = (),
    stages: list[dict[str, Any]] | None = None,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """`egrc train` on the small configuration; `extra` are options of the command, `stages` replace its own, and
    `variables` are of its environment."""
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(root / "configs/quickstart.yaml")]
    own = SMALL if stages is None else (*SMALL_RUN, f"stages={orjson.dumps(stages).decode()}")
    for override in (*own, f"run.dir={run_dir}", *overrides):
        command += ["--set", override]
    environment = os.environ | {"EGRC_FAULTS": faults} | dict(variables or {})
    return popen([*command, *extra], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish_run(process: "subprocess.Popen[str]", expected: int = 0, timeout_s: float = 150) -> str:
    """The run's output; its exit code must be the expected one."""
    output = require_end(process, timeout_s)
    require_cause(process.returncode, output, expected=expected)
    return output


def kill_after_a_step(
    run: "subprocess.Popen[str]", run_dir: Path, steps: int = 1, number: int = signal.SIGKILL
) -> None:
    """Send the second server of a run a signal once so many steps are recorded."""
    deadline = time.monotonic() + 240
    while not (run_dir / "metrics.jsonl").exists() or len(events(run_dir, "step")) < steps:
        assert time.monotonic() < deadline and run.poll() is None, "the run never made the step"
        time.sleep(0.02)
    server_of(run_dir, 1).send_signal(number)


def server_of(run_dir: Path, number: int) -> psutil.Process:
    """A run's server, a fork or not: its standard output is its log. Below a guard of ours, which writes for it, it."""
    log = run_dir / "logs" / f"server_{number}.log"
    (writer,) = [process for process in psutil.process_iter() if _output_of(process.pid) == log]
    return writer.children()[0] if GUARD in writer.cmdline() else writer


def _output_of(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/fd/1").readlink()
    except OSError:  # it has ended, or is somebody else's
        return None


def variables_of(number: int) -> dict[str, str]:
    """Of a process; the system shows none for a moment, right after its start."""
    while not (found := psutil.Process(number).environ()):
        time.sleep(0.001)
    return found


def bytes_being_written(run_dir: Path, since: float) -> int:
    """Of the checkpoint that has no name yet, 0 when there is none; what was written before `since` is a killed one."""
    try:
        files = [file.stat() for file in run_dir.glob("checkpoints/*.tmp/*.distcp")]
    except FileNotFoundError:  # it has just been committed
        return 0
    return sum(file.st_size for file in files if file.st_mtime >= since)


def progress(run: Path) -> dict[str, Any]:
    """What a disturbed run has in common with an undisturbed one where tokens need not be the same."""
    steps = events(run, "step")
    states = {file.parent.name: orjson.loads(file.read_bytes()) for file in run.glob("checkpoints/step_*/state.json")}
    return {
        "steps": [(step["step"], step["stage"], step["weight_version"]) for step in steps],
        "groups": [(step["groups"], step["sampled_groups"], step["refused_groups"]) for step in steps],
        "position": {name: state["position"] for name, state in states.items()},
    }


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The run's events of a kind; a line that is just being written, and seen without its end, is left for later."""
    lines = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    return [event for event in map(orjson.loads, lines) if event["kind"] == kind]
