"""The run that a soak disturbs: the miniature on two ranks, as short as a run with every kind of event can be."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from egrc_mega import miniature
from egrc_mega.parent import die_with_parent
from egrc_mega.soak.schedule import NUM_RANKS, NUM_SERVERS, STEPS_PER_STAGE, Plan

ASSETS = Path(miniature.__file__).parent / "assets"
HANG_LIMIT_S = 20.0
"""Long for a step of a second on a busy machine, and short for a round."""
SILENCE_LIMIT_S = 5.0


def write_config(folder: Path, seed: int) -> Path:
    """The configuration that all rounds of a seed share; the seed also chooses how the two ranks share the work."""
    sampling, optimizer = {"n": 4, "temperature": 1.0}, {"lr": 1.0e-4}
    stage = {"steps": STEPS_PER_STAGE, "clip_len": 72, "rollout": sampling, "optim": optimizer}
    config: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "seed": seed},
        "model": {"path": str(ASSETS / "base")},
        "data": {"train": str(ASSETS / "train.jsonl")},
        "rollout": {
            "prompts_per_step": 4,
            "num_servers": NUM_SERVERS,
            "max_restarts": 1000,
            "silence_timeout_s": SILENCE_LIMIT_S,
        },
        "megatron": {"tensor_model_parallel_size": 1 + seed % 2, "weight_decay": 0.0, "clip_grad": 1.0},
        "policy": {"max_tokens_per_micro_batch": 16384, "distributed_timeout_s": HANG_LIMIT_S},
        "stages": [{"method": "compress"} | stage, {"method": "explore"} | stage],
        "checkpoint": {"every": 2, "keep_last": 1},
        "evaluation": {
            "data": str(ASSETS / "eval.jsonl"),
            "num_problems": 2,
            "temperatures": [1.0],
            "max_new_tokens": 8,
        },
        "grading": {"num_workers": 1},
        "supervisor": {"backoff_s": 0.1, "max_same_step": 5},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def train_command(config: Path, run_dir: Path, plan: Plan | None = None, urls: Sequence[str] = ()) -> list[str]:
    """The supervised run of a round; None: of the run that nobody disturbs."""
    values: dict[str, Any] = {"run.dir": str(run_dir)}
    if plan is not None:
        values["checkpoint.asynchronous"] = plan.is_asynchronous
        values["checkpoint.on_failure"] = "continue" if plan.goes_on else "stop"
    if urls:
        values |= {"rollout.server": "external", "rollout.urls": list(urls)}
    return [*_egrc("train", config, values), "--supervise", "--nproc-per-node", str(NUM_RANKS)]


def serve_command(config: Path, folder: Path) -> list[str]:
    """The servers that no run has started, watched by a process of their own."""
    return _egrc("serve", config, {"run.dir": str(folder)})


def _egrc(command: str, config: Path, values: Mapping[str, Any]) -> list[str]:
    chosen = [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    return [sys.executable, "-P", "-m", "egrc_mega.cli.main", command, "-c", str(config), *chosen]


def start(command: Sequence[str], folder: Path, console: Path, more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a command that works in a folder, has its scratch in `tmp` there, and dies with this process.

    Args:
        console: file to which what it says is appended.
        more: variables of its environment besides ours.
    """
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    # torch keeps what it has compiled for whoever comes next: nothing that a run leaves behind
    own = {"TMPDIR": str(scratch), "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"), "OMP_NUM_THREADS": "1"}
    with console.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | own | dict(more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
