"""What a method has seen of a step's groups it knows in the next step, and after a kill and a resume."""

import json
import math
import signal
from pathlib import Path

import pytest

from egrc_mega.observe.rollouts import read_rollouts
from egrc_mega.testing.runs import events, finish_run, start_run

STAGE = {
    "method": "hapo",
    "steps": 3,
    "rollout": {"n": 4, "temperature": 1.0, "max_new_tokens": 160},
    "optim": {"lr": 1e-4},
}


@pytest.fixture(scope="module")
def run_dir(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of the same four problems; the third is taken after a resume."""
    base = tmp_path_factory.mktemp("remembering")
    rows = (root / "egrc_mega/miniature/assets/train.jsonl").read_text().splitlines()[:4]
    (base / "train.jsonl").write_text("\n".join(rows) + "\n")
    overrides = (f"data.train={base / 'train.jsonl'}", "checkpoint.every=1", "evaluation.num_problems=4")
    killed = start_run(root, base / "run", stages=[STAGE], overrides=overrides, faults="train.after_commit@2")
    finish_run(killed, expected=-signal.SIGKILL)
    finish_run(start_run(root, base / "run", "--resume", stages=[STAGE], overrides=overrides))
    return base / "run"


def test_a_resume_says_from_which_step_it_goes_on(run_dir: Path) -> None:
    assert "resuming from step 2: checkpoints/step_000002" in (run_dir / "run.log").read_text()


def test_a_response_is_held_against_the_shortest_right_one_of_earlier_steps(run_dir: Path) -> None:
    shortest: dict[str, int] = {}
    num_with_history = 0
    for step in (1, 2, 3):
        seen = dict(shortest)
        for group in read_rollouts(run_dir, step).groups:
            for sample in group.samples:
                length, right = len(sample.output_ids), sample.grade == "right" and not sample.truncated
                gain = 0.0
                if group.key in shortest:
                    num_with_history += 1
                    gain = math.cos(math.pi / 2 * min(length / shortest[group.key], 2))
                    gain = max(-0.7, gain) if right else min(0.0, gain)
                assert sample.reward == pytest.approx(right + gain, abs=1e-6)
                if right:
                    seen[group.key] = min(length, seen.get(group.key, length))
        shortest = seen
    assert num_with_history >= 16


def test_the_record_says_what_the_history_is_worth(run_dir: Path) -> None:
    first, *later = events(run_dir, "step")
    assert first["reward_length"] == 0
    assert all(step["reward_length"] != 0 for step in later)
    assert json.dumps(first).count("shortest") == 0
