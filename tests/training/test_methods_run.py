"""Whole runs of rival methods: in one launch on two ranks; with state, a switch by measurement and a plugin, disturbed.

Every method is one file and one configuration; nothing else of the package knows of it.
"""

import json
import re
import shutil
import signal
from pathlib import Path
from statistics import fmean

import orjson
import pytest
import yaml

from egrc_mega.config.load import load_config
from egrc_mega.observe.rollouts import read_rollouts
from egrc_mega.testing.runs import assert_same_weights, events, finish_run, start_run

pytestmark = pytest.mark.long_file
RIVALS = ("dapo", "thinkprune", "adaptthink")
MINIATURE = {"rollout": {"n": 4, "temperature": 1.0}, "optim": {"lr": 1e-4}}


def stage(method: str, **fields: object) -> dict[str, object]:
    return {"method": method, "steps": 2, **MINIATURE} | fields


def run_of(root: Path, run_dir: Path, stages: list[dict[str, object]], *extra: str, **options: object):
    """A small run with stages of its own."""
    more = options.pop("overrides", ())
    small = ("checkpoint.every=1", "evaluation.num_problems=4")
    return start_run(root, run_dir, *extra, stages=stages, overrides=(*small, *more), **options)


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


@pytest.fixture(scope="module")
def facts(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature's training problems with a column that AdaptThink needs."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = (root / "egrc_mega/miniature/assets/train.jsonl").read_text().splitlines()[:64]
    path.write_text("".join(json.dumps(json.loads(row) | {"reference_accuracy": 0.5}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def one_launch(root: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DAPO, ThinkPrune and AdaptThink, two steps each, on two tensor-parallel ranks."""
    run_dir = tmp_path_factory.mktemp("rivals") / "run"
    stages = [
        stage("dapo", max_length=160, overlong_buffer=40),
        stage("thinkprune", caps=[120, 80], steps_per_cap=1, system=None),
        stage("adaptthink", no_thinking=" </think>", thinking=" Wait", no_thinking_cap=60, thinking_cap=160),
    ]
    stages.append(stage("looking"))
    plugin = facts.with_name("looking.py")
    plugin.write_text(LOOKING)
    overrides = (
        "megatron.tensor_model_parallel_size=2",
        f"data.train={facts}",
        "data.facts=[reference_accuracy]",
        f"plugins=[{plugin}]",
    )
    finish_run(run_of(root, run_dir, stages, "--nproc-per-node", "2", overrides=overrides))
    return run_dir


def test_the_three_rivals_train_in_one_launch_on_two_ranks(one_launch: Path) -> None:
    steps = events(one_launch, "step")
    methods = (*RIVALS, "looking")
    assert [(step["method"], step["step_in_stage"]) for step in steps] == [(m, n) for m in methods for n in (1, 2)]
    assert all(step["updated"] and step["grad_norm"] > 0 for step in steps)
    assert all(step["logprob_diff_max"] <= 1e-4 for step in steps)
    assert [step["method_cap"] for step in steps[2:4]] == [120, 80]


def test_every_named_term_of_a_reward_is_in_the_record(one_launch: Path) -> None:
    dapo, think = events(one_launch, "step")[0], events(one_launch, "step")[4]
    assert dapo["reward"] == pytest.approx(dapo["reward_answer"] + dapo["reward_overlong"])
    assert think["reward"] == pytest.approx(think["reward_answer"] - 0.5 + think["reward_mode"])
    assert think["reward_mode"] == pytest.approx(0.05 / 2)
    assert {"method_accuracy_thinking", "method_accuracy_no_thinking"} <= think.keys()


def test_groups_that_dapo_drops_are_replaced_and_counted(one_launch: Path) -> None:
    for step in events(one_launch, "step")[:2]:
        assert step["groups"] == 4
        assert step["sampled_groups"] >= step["groups"] + step["groups_without_signal"]


def test_a_forced_token_blames_no_server(one_launch: Path) -> None:
    think = events(one_launch, "step")[4:6]
    assert all(step["lost_requests"] == 0 and step["server_restarts"] == 0 for step in think)


def test_a_method_is_shown_what_it_needs_and_asked_once_a_step(one_launch: Path) -> None:
    first, second = events(one_launch, "step")[6:]
    assert (first["method_calls"], second["method_calls"]) == (1, 2)
    for step in (first, second):
        assert step["method_entropy"] == pytest.approx(step["entropy"], rel=1e-5)
        # the model that the run began with has been left behind
        assert step["method_gap"] > 1e-3 > step["logprob_diff_max"]


def test_the_rollouts_on_disk_are_what_the_record_and_the_batch_were_made_of(one_launch: Path) -> None:
    for step in events(one_launch, "step"):
        stored = read_rollouts(one_launch, step["step"])
        samples = [sample for group in stored.groups for sample in group.samples]
        assert stored.stage == step["stage"]
        assert len(stored.groups) == step["groups"]
        assert fmean(s.reward for s in samples if s.reward is not None) == pytest.approx(step["reward"])
        assert fmean(s.kept for s in samples) == step["kept"]
        assert sum(len(s.output_ids) for s in samples) == step["tokens"]
        assert {s.tag for s in samples} == ({"thinking", "no_thinking"} if step["method"] == "adaptthink" else {""})
        assert all((s.entropies is not None) == (step["method"] == "looking") for s in samples)


SWITCHING = {"min_steps": 1, "window": 1, "ema_steps": 2, "checks": 1, "rel_length": 9.0, "rel_entropy": 9.0}
"""Everything stands still under these rules, so the stage ends as soon as its window is full."""


@pytest.fixture(scope="module")
def disturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run whose caps shrink and whose stage ends by its curves; the same, killed in the middle, DAPO as a plugin."""
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("undisturbed", "killed")}
    shutil.copy(root / "egrc_mega/methods/dapo.py", base / "dapo.py")
    stages = [
        stage("thinkprune", steps=4, caps=[120, 80], steps_per_cap=2, system=None),
        stage("dapo", steps=9, max_length=160, overlong_buffer=40, plateau=SWITCHING, label="measured"),
        stage("explore", steps=1, clip_len=72),
    ]
    plugin = (f"plugins=[{base / 'dapo.py'}]",)
    first = run_of(root, folders["undisturbed"], stages)
    second = run_of(root, folders["killed"], stages, faults="train.before_commit@3", overrides=plugin)
    finish_run(second, expected=-signal.SIGKILL)
    third = run_of(root, folders["killed"], stages, "--resume", faults="train.before_commit@6", overrides=plugin)
    finish_run(first)
    finish_run(third, expected=-signal.SIGKILL)
    finish_run(run_of(root, folders["killed"], stages, "--resume", overrides=plugin))
    return folders


def test_state_and_curves_survive_kills_bit_by_bit_and_a_plugin_is_the_built_in_method(
    disturbed: dict[str, Path],
) -> None:
    assert [step["step"] for step in events(disturbed["killed"], "step")] == [1, 2, 3, 3, 4, 5, 6, 6, 7]
    assert_same_weights(disturbed["killed"], disturbed["undisturbed"])
    assert events(disturbed["killed"], "switch")[-1]["kind"] == "switch"


def test_a_stage_that_ends_by_its_curves_says_so_with_numbers(disturbed: dict[str, Path]) -> None:
    switches = events(disturbed["undisturbed"], "switch")
    assert [(s["ended"], s["opens"], s["step"]) for s in switches] == [
        ("thinkprune", "measured", 4),
        ("measured", "explore", 6),
        ("explore", None, 7),
    ]
    assert re.match(r"entropy 0\.\d+ and length \d+\.\d stand still", switches[1]["reason"])
    points = orjson.loads((disturbed["undisturbed"] / "evaluation.json").read_bytes())["points"]
    assert [(p["label"], p["ordinal"], p["step"]) for p in points[::2]] == [
        ("base", 0, 0),
        ("thinkprune", 1, 4),
        ("measured", 2, 6),
        ("explore", 3, 7),
    ]


def test_the_shrunk_cap_holds_after_a_resume(disturbed: dict[str, Path]) -> None:
    for run in disturbed.values():
        caps = {step["step"]: step["method_cap"] for step in events(run, "step") if step["method"] == "thinkprune"}
        assert caps == {1: 120, 2: 120, 3: 80, 4: 80}


def test_a_resume_with_another_number_of_steps_is_refused_by_name(disturbed: dict[str, Path], root: Path) -> None:
    config = yaml.safe_load((disturbed["undisturbed"] / "config.yaml").read_text())
    stages = config["stages"]
    stages[0]["steps"] = 9
    output = finish_run(run_of(root, disturbed["undisturbed"], stages, "--resume"), expected=7)
    assert "egrc: error: stages.thinkprune.steps: 9, but the run has gone by 4" in output
    assert "starting servers" not in output


@pytest.mark.parametrize("name", RIVALS)
def test_a_method_is_one_small_file_and_one_small_configuration(root: Path, name: str) -> None:
    file, config = root / f"egrc_mega/methods/{name}.py", root / f"configs/methods/{name}.yaml"
    assert file.read_text().count("\n") <= 90
    assert config.read_text().count("\n") <= 20
    mentions = [
        path.relative_to(root)
        for path in (root / "egrc_mega").rglob("*.py")
        if path != file and re.search(rf"\b(methods\.)?{name}\b", path.read_text())
    ]
    assert mentions == []
    assert load_config([root / "configs/r1_distill_qwen_1p5b.yaml", config]).config.stages[0].method == name
