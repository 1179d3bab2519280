"""The miniature trained on real servers of SGLang, whole, and with a server that is killed. On the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from egrc_mega.testing.runs import events, finish_run, kill_after_a_step, progress, start_run

pytestmark = pytest.mark.long_file


@pytest.mark.parametrize("transport", ["disk", "distributed"])
def test_eight_steps_of_each_stage(transport: str, root: Path, tmp_path: Path) -> None:
    """The first stage draws from the whole vocabulary, the second with top-p and top-k."""
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(root / "configs/quickstart.yaml")]
    for override in (
        f"run.dir={tmp_path / 'run'}",
        "rollout.server=sglang",
        f"sync.transport={transport}",
        "sync.verify_every=4",
        "stages.compress.steps=8",
        "stages.explore.steps=8",
        "stages.explore.rollout.top_p=0.9",
        "stages.explore.rollout.top_k=20",
        "evaluation.num_problems=16",
    ):
        command += ["--set", override]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=560)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    steps = events(tmp_path / "run", "step")
    assert [step["weight_version"] for step in steps] == [f"v{i}" for i in range(16)]
    assert all(0 < step["logprob_diff_max"] <= 1e-4 for step in steps)
    assert steps[-1]["lost_requests"] == steps[-1]["server_restarts"] == 0
    # the policy that SGLang samples from has moved: the compressed responses are shorter than the base's
    assert steps[7]["length"] < steps[0]["length"]


def test_a_server_killed_in_a_run_changes_no_step_prompt_or_count(root: Path, tmp_path: Path) -> None:
    overrides = ("rollout.server=sglang", "rollout.num_servers=2", "rollout.max_batch_size=32")
    run = start_run(root, tmp_path / "run", overrides=overrides)
    kill_after_a_step(run, tmp_path / "run", steps=2)
    finish_run(run, timeout_s=400)
    steps = [(i + 1, "compress" if i < 3 else "explore", f"v{i}") for i in range(6)]
    prompts = {f"step_{step:06d}": {"cursor": 4 * step, "carried": []} for step in (2, 3, 4, 6)}
    found = progress(tmp_path / "run")
    assert (found["steps"], found["groups"]) == (steps, [(4, 4, 0)] * 6)
    assert found["position"].items() <= prompts.items() and "step_000006" in found["position"]
    last = events(tmp_path / "run", "step")[-1]
    assert last["server_restarts"] == 1
