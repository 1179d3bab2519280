"""Every method trains: two steps each in one launch on two ranks; five that remember or force survive being killed."""

import json
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from egrc_mega.config.load import load_config
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.observe.rollouts import read_rollouts, step_path
from egrc_mega.testing.runs import assert_same_weights, events, finish_run, start_run
from egrc_mega.training.recorded_batch import payment, read_batch

pytestmark = pytest.mark.long_file
OWN: dict[str, dict[str, Any]] = {
    "adaptthink": {"no_thinking": " </think>", "thinking": " Wait", "no_thinking_cap": 40, "thinking_cap": 72},
    "arora": {"reward_kl_coef": 0.05},
    "autothink": {"opening": " Then"},
    "compress": {"clip_len": 72},
    "dapo": {"max_length": 72, "overlong_buffer": 20},
    "dler": {"max_length": 72},
    "entangled": {"compress": {"clip_len": 72}, "explore": {"clip_len": 72}},
    "etr": {"step_end": ";"},
    "explore": {"clip_len": 48},
    "gfpo": {"k": 3},
    "l1_exact": {"budget": [4, 9], "words": " {n}"},
    "l1_max": {"budget": [4, 9], "words": " {n}"},
    "laser": {"target": 40},
    "laser_d": {"lower": 40},
    "laser_de": {"lower": 40},
    "length_penalty": {"thinking": {"relative": 0.2}, "answer": {"relative": 0.1}},
    "short_rl": {"length_tolerance": 4},
    "thinkprune": {"caps": [80, 72], "steps_per_cap": 1, "system": None},
}
"""What a method needs to be told of the miniature: lengths of its size, and texts of its forty tokens."""
CAPPED = ("adaptthink", "thinkprune")
"""Methods whose caps are fields of their own."""
SMALL = (
    "rollout.prompts_per_step=3",
    "rollout.dynamic_sampling_limit=40",
    "evaluation.num_problems=1",
    "evaluation.temperatures=[1.0]",
    "evaluation.max_new_tokens=24",
    "data.facts=[reference_accuracy, reference_length]",
)


def stage(method: str) -> dict[str, Any]:
    rollout = {"n": 4, "temperature": 1.0} | ({} if method in CAPPED else {"max_new_tokens": 72})
    own = dict(OWN.get(method, {}))
    section = METHODS[method].Config.model_fields["rollout"].default
    kept = {"drop_groups": section.drop_groups} if section.drop_groups != "never" else {}
    return {"method": method, "steps": 2, "rollout": rollout | kept, "optim": {"lr": 1e-4}} | own


@pytest.fixture(scope="module")
def facts(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's training problems with the columns that AdaptThink and O1-Pruner need."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = (root / "egrc_mega/miniature/assets/train.jsonl").read_text().splitlines()[:64]
    known = {"reference_accuracy": 0.5, "reference_length": 60}
    path.write_text("".join(json.dumps(json.loads(row) | known) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def launch(root: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods, two steps each, on two tensor-parallel ranks."""
    run_dir = tmp_path_factory.mktemp("zoo") / "run"
    stages = [stage(method) for method in sorted(METHODS.members)]
    overrides = (*SMALL, "megatron.tensor_model_parallel_size=2", "checkpoint.every=100", f"data.train={facts}")
    run = start_run(root, run_dir, "--nproc-per-node", "2", stages=stages, overrides=overrides)
    finish_run(run, timeout_s=900)
    return run_dir


def test_every_method_trains_two_steps_in_one_launch_on_two_ranks(launch: Path) -> None:
    steps = events(launch, "step")
    methods = sorted(METHODS.members)
    assert [(step["method"], step["step_in_stage"]) for step in steps] == [(m, n) for m in methods for n in (1, 2)]
    moved = defaultdict(list)
    for step in steps:
        assert step["logprob_diff_max"] <= 1e-4, step["method"]
        moved[step["method"]].append(step["updated"] and step["grad_norm"] > 0)
    assert [method for method, updates in moved.items() if not any(updates)] == []


def test_egrc_credit_pays_for_the_rollouts_of_every_step_what_the_run_has_paid(launch: Path) -> None:
    config = load_config([launch / "config.yaml"]).config
    seen: set[str] = set()
    for step in events(launch, "step"):
        paid = payment(config, read_batch(step_path(launch / "rollouts", step["step"])))
        samples = [sample for group in read_rollouts(launch, step["step"]).groups for sample in group.samples]
        assert [reward for row in paid["rewards"] for reward in row] == [sample.reward for sample in samples]
        advantages = [advantage for row in paid["advantages"] for advantage in row]
        by_token = [tokens for row in paid.get("token_advantages", ()) for tokens in row] or [None] * len(samples)
        for sample, advantage, tokens in zip(samples, advantages, by_token, strict=True):
            wanted = np.asarray(sample.advantage) * sample.kept
            # arrays of advantages are stored in single precision
            found = advantage if tokens is None else tokens
            assert found == pytest.approx(wanted if tokens else float(wanted.max()), rel=1e-6), step["method"]
            seen |= {step["method"]} if advantage or tokens else set()
    assert set(METHODS.members) == seen


def test_what_a_method_has_forced_thought_and_planned_is_in_the_rollouts(launch: Path) -> None:
    numbers = {step["method"]: step["step"] for step in events(launch, "step")}
    samples = {
        name: [
            sample
            for group in read_batch(step_path(launch / "rollouts", numbers[name])).groups
            for sample in group.samples
        ]
        for name in ("adaptthink", "l1_exact", "hapo")
    }
    assert {sample.num_forced for sample in samples["adaptthink"]} == {1}
    assert {sample.ask.max_new_tokens for sample in samples["adaptthink"]} == {40, 72}
    assert {sample.problem.facts["reference_accuracy"] for sample in samples["adaptthink"]} == {0.5}
    assert {sample.num_forced for sample in samples["hapo"]} == {0}
    assert all(4 <= sample.ask.facts["budget"] <= 9 for sample in samples["l1_exact"])
    thought = [sample for sample in samples["hapo"] if "</think>" in sample.text]
    assert thought and all(0 < sample.think_length <= sample.length for sample in thought)


KILLED = ("a_dlp", "adaptthink", "hapo", "laser_d", "short_rl")
"""Methods that remember something from step to step, and one that forces its first token."""


@pytest.fixture(scope="module")
def disturbed(root: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of five methods, and the same killed in the second step of each of them.

    Three problems are all that there is, so that every step sees those of the step before: what was remembered counts.
    """
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("undisturbed", "killed")}
    few = base / "train.jsonl"
    few.write_text("".join(facts.read_text().splitlines(keepends=True)[:3]))
    stages = [stage(method) for method in KILLED]
    overrides = (*SMALL, "checkpoint.every=1", f"data.train={few}")
    first = start_run(root, folders["undisturbed"], stages=stages, overrides=overrides)
    for number in range(len(KILLED)):
        fault = f"train.before_commit@{2 * number + 2}"
        extra = ("--resume",) if number else ()
        run = start_run(root, folders["killed"], *extra, stages=stages, overrides=overrides, faults=fault)
        finish_run(run, expected=-signal.SIGKILL)
    finish_run(start_run(root, folders["killed"], "--resume", stages=stages, overrides=overrides))
    finish_run(first)
    return folders


def test_methods_that_remember_or_force_are_killed_in_every_stage_and_end_with_the_same_weights(
    disturbed: dict[str, Path],
) -> None:
    steps = [step["step"] for step in events(disturbed["killed"], "step")]
    assert steps == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10]
    assert_same_weights(disturbed["killed"], disturbed["undisturbed"])


def test_what_a_killed_run_remembers_at_each_step_is_what_the_undisturbed_one_does(disturbed: dict[str, Path]) -> None:
    kept = [
        {
            file.parent.name: orjson.loads(file.read_bytes())["method"]
            for file in run.glob("checkpoints/step_*/state.json")
        }
        for run in disturbed.values()
    ]
    assert kept[0] == kept[1]
    records = [
        {
            (step["step"], name): value
            for step in events(run, "step")
            for name, value in step.items()
            if "reward" in name
        }
        for run in disturbed.values()
    ]
    assert records[0] == records[1]
