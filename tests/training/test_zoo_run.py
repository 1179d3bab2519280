"""Every method trains: two steps each in one launch on two ranks; six that remember or force survive being killed."""

import json
import shutil
import signal
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from egrc_mega.config.load import validated
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.observe.rollouts import read_rollouts, step_path
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.runs import events, finish_run, start_run
from egrc_mega.training.recorded_batch import payment, read_batch

pytestmark = [pytest.mark.long_file, pytest.mark.program]
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


BUILTIN = tuple(sorted(METHODS.members))
LOOKING = """
from statistics import fmean
from typing import Literal

import numpy as np

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import over_groups, z_score
from egrc_mega.sections.stage import StageSection


class LookingSection(StageSection):
    method: Literal["looking"] = "looking"


class Looking(Method[LookingSection, NoState]):
    Config = LookingSection
    needs = frozenset({"entropies", "reference_logprobs", "token_ends"})
    calls = 0

    def credit(self, groups, view):
        Looking.calls += 1
        for sample in (sample for group in groups for sample in group.samples):
            arrays = (sample.entropies, sample.reference_logprobs, sample.token_ends)
            assert [len(array) for array in arrays] == [sample.length] * 3
            assert sample.token_ends[-1] == len(sample.text)
        terms = lambda sample: {"answer": float(sample.right), "entropy": -float(np.mean(sample.entropies))}
        return over_groups(groups, terms, z_score())

    def metrics(self, groups, credits, view):
        samples = [sample for group in groups for sample in group.samples]
        gaps = [abs(sample.reference_logprobs - sample.completion.logprobs).max() for sample in samples]
        tokens = np.concatenate([sample.entropies for sample in samples])
        return {"entropy": float(tokens.mean()), "gap": float(max(gaps)), "calls": float(Looking.calls)}

    @property
    def longest(self):
        return 100
"""
"""A method of somebody else that looks at everything that a run can measure."""


def stage(method: str) -> dict[str, Any]:
    rollout = {"n": 4, "temperature": 1.0} | ({} if method in CAPPED else {"max_new_tokens": 72})
    own = dict(OWN.get(method, {}))
    if method not in BUILTIN:
        return {"method": method, "steps": 2, "rollout": rollout, "optim": {"lr": 1e-4}}
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
    """All methods and a plugin, two steps each, on two tensor-parallel ranks."""
    run_dir = tmp_path_factory.mktemp("zoo") / "run"
    plugin = facts.with_name("looking.py")
    plugin.write_text(LOOKING)
    stages = [stage(method) for method in (*BUILTIN, "looking")]
    own = ("megatron.tensor_model_parallel_size=2", "checkpoint.every=100", f"plugins=[{plugin}]")
    overrides = (*SMALL, *own, f"data.train={facts}")
    run = start_run(root, run_dir, "--nproc-per-node", "2", stages=stages, overrides=overrides)
    finish_run(run, timeout_s=900)
    return run_dir


def test_every_method_trains_two_steps_in_one_launch_on_two_ranks(launch: Path) -> None:
    steps = events(launch, "step")
    methods = (*BUILTIN, "looking")
    assert [(step["method"], step["step_in_stage"]) for step in steps] == [(m, n) for m in methods for n in (1, 2)]
    moved = defaultdict(list)
    for step in steps:
        assert step["logprob_diff_max"] <= 1e-4, step["method"]
        moved[step["method"]].append(step["updated"] and step["grad_norm"] > 0)
    assert [method for method, updates in moved.items() if not any(updates)] == []
    # the alarms' defaults take nothing that a method does on purpose for an illness
    assert events(launch, "alarm") == []


def test_egrc_credit_pays_for_the_rollouts_of_every_step_what_the_run_has_paid(launch: Path) -> None:
    fields = yaml.safe_load((launch / "config.yaml").read_text())
    config = validated(fields | {"plugins": [], "stages": fields["stages"][:-1]})
    seen: set[str] = set()
    for step in events(launch, "step")[:-2]:
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
    assert set(BUILTIN) == seen


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


def of_method(launch: Path, name: str) -> list[dict[str, Any]]:
    """Its two steps."""
    return [step for step in events(launch, "step") if step["method"] == name]


def test_every_named_term_of_a_reward_is_in_the_record(launch: Path) -> None:
    for dapo in of_method(launch, "dapo"):
        assert dapo["reward"] == pytest.approx(dapo["reward_answer"] + dapo["reward_overlong"])
    for think in of_method(launch, "adaptthink"):
        assert think["reward"] == pytest.approx(think["reward_answer"] - 0.5 + think["reward_mode"])
        assert think["reward_mode"] == pytest.approx(0.05 / 2)
        assert {"method_accuracy_thinking", "method_accuracy_no_thinking"} <= think.keys()
    assert [step["method_cap"] for step in of_method(launch, "thinkprune")] == [80, 72]


def test_groups_that_dapo_drops_are_replaced_and_counted(launch: Path) -> None:
    for step in of_method(launch, "dapo"):
        assert step["groups"] == 3
        assert step["sampled_groups"] >= step["groups"] + step["groups_without_signal"]


def test_a_forced_token_blames_no_server(launch: Path) -> None:
    think = of_method(launch, "adaptthink")
    assert all(step["lost_requests"] == 0 and step["server_restarts"] == 0 for step in think)


def test_a_method_is_shown_what_it_needs_and_asked_once_a_step(launch: Path) -> None:
    first, second = of_method(launch, "looking")
    assert (first["method_calls"], second["method_calls"]) == (1, 2)
    for step in (first, second):
        assert step["method_entropy"] == pytest.approx(step["entropy"], rel=1e-5)
        # the model that the run began with has been left behind
        assert step["method_gap"] > 1e-3 > step["logprob_diff_max"]


def test_the_rollouts_on_disk_are_what_the_record_and_the_batch_were_made_of(launch: Path) -> None:
    for step in events(launch, "step"):
        stored = read_rollouts(launch, step["step"])
        samples = [sample for group in stored.groups for sample in group.samples]
        assert (stored.stage, stored.step_in_stage) == (step["stage"], step["step_in_stage"] - 1)
        assert len(stored.groups) == step["groups"]
        assert fmean(s.reward for s in samples if s.reward is not None) == pytest.approx(step["reward"])
        assert fmean(s.kept for s in samples) == step["kept"]
        assert sum(len(s.output_ids) for s in samples) == step["tokens"]
        assert {s.tag for s in samples} == ({"thinking", "no_thinking"} if step["method"] == "adaptthink" else {""})
        assert all((s.entropies is not None) == (step["method"] in ("etr", "looking")) for s in samples)


KILLED = ("a_dlp", "adaptthink", "hapo", "laser_d", "short_rl", "thinkprune")
"""Methods that remember something from step to step, one that forces its first token, and one whose cap shrinks."""


@pytest.fixture(scope="module")
def disturbed(root: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of six methods and DAPO, and the same killed in the second step of each of the six, with DAPO as a plugin.

    Three problems are all that there is, so that every step sees those of the step before: what was remembered counts.
    """
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("undisturbed", "killed")}
    few = base / "train.jsonl"
    few.write_text("".join(facts.read_text().splitlines(keepends=True)[:3]))
    stages = [stage(method) for method in (*KILLED, "dapo")]
    overrides = (*SMALL, "checkpoint.every=1", f"data.train={few}")
    shutil.copy(root / "egrc_mega/methods/dapo.py", base / "dapo.py")
    plugin = (*overrides, f"plugins=[{base / 'dapo.py'}]")
    first = start_run(root, folders["undisturbed"], stages=stages, overrides=overrides)
    for number in range(len(KILLED)):
        fault = f"train.before_commit@{2 * number + 2}"
        extra = ("--resume",) if number else ()
        run = start_run(root, folders["killed"], *extra, stages=stages, overrides=plugin, faults=fault)
        finish_run(run, expected=-signal.SIGKILL)
    finish_run(start_run(root, folders["killed"], "--resume", stages=stages, overrides=plugin))
    finish_run(first)
    return folders


def test_methods_that_remember_or_force_are_killed_in_every_stage_and_a_plugin_is_the_built_in_method(
    disturbed: dict[str, Path],
) -> None:
    steps = [step["step"] for step in events(disturbed["killed"], "step")]
    assert steps == [1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12, 12, 13, 14]
    require_same_weights(disturbed["killed"], disturbed["undisturbed"])


def test_the_shrunk_cap_holds_after_a_resume(disturbed: dict[str, Path]) -> None:
    for run in disturbed.values():
        caps = {step["step"]: step["method_cap"] for step in events(run, "step") if step["method"] == "thinkprune"}
        assert caps == {11: 80, 12: 72}


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
