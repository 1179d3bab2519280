"""`egrc plan`: the paper's recipe on sixteen H100, and what is said where it cannot work."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from egrc_mega.convert.presets import PRESETS
from egrc_mega.errors import ConfigError, ModelError
from egrc_mega.launch.plan import Question, plan_for
from egrc_mega.plan.as_json import as_json
from egrc_mega.plan.evaluation_time import num_evaluations
from egrc_mega.plan.page import page
from egrc_mega.plan.plan import Plan
from egrc_mega.testing import forked

SEVEN, SMALL = "r1_distill_qwen_7b", "r1_distill_qwen_1p5b"


def ask(
    root: Path, *overrides: str, recipe: str = SEVEN, gpus: int = 16, gpu: str = "h100-80g", **rest: object
) -> Plan:
    return plan_for(Question([root / f"configs/{recipe}.yaml"], overrides, gpus, gpu, **rest))  # type: ignore[arg-type]


def test_the_recipe_is_planned_offline_without_weights(root: Path) -> None:
    """The command as the documentation has it, in a process of its own."""
    command = ["plan", str(root / "configs/r1_distill_qwen_7b.yaml"), "--gpus", "16", "--gpu", "h100-80g"]
    told = forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *command])
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == page(ask(root)).strip()
    for part in (
        "7.62 billion parameters, sizes of preset deepseek-r1-distill-qwen-7b (no folder yet)",
        "16 GPUs = 8 train + 8 serve",
        "8 processes = tensor 4 x pipeline 1 x data 2, recomputing selective",
        "1,904,057,344 parameters; 3,808,114,688 bytes of weights, 7,616,229,376 of gradients",
        "largest token budget that fits",
        "for keys and values",
        "compress: 1024 responses",
        "explore: 2048 responses",
        "GPU hours",
    ):
        assert part in told.stdout, part


@pytest.mark.parametrize(
    ("overrides", "makes"),
    [
        ([], False),
        (["stages.explore.loss.ratio=sequence"], True),
        (["stages.compress.loss.entropy_coef=0.01"], True),
        (["stages.explore.rollout.top_k=50"], True),
        (["stages.explore.rollout.top_k=50", "policy.fused_output_layer=true"], False),
    ],
)
def test_logits_are_in_memory_for_the_losses_that_take_them(root: Path, overrides: list[str], makes: bool) -> None:
    plan = ask(root, *overrides)
    assert plan.memory is not None and plan.memory.setting.makes_logits is makes


def test_json_has_what_the_page_has(root: Path) -> None:
    plan = ask(root)
    found = json.loads(json.dumps(as_json(plan)))
    assert found["possible"] and found["problems"] == []
    assert found["gpus"] == {"all": 16, "trainer": 8, "rollout": 8}
    [rank] = found["ranks"]
    kept = rank["weights"] + rank["gradients"] + rank["optimizer"] + rank["reserved"] + rank["activations"]
    assert rank["peak"] == rank["phases"]["train"] == kept + max(rank["working"], rank["head"])
    for stage in found["stages"].values():
        assert stage["train_s"] == pytest.approx(sum(stage["train_parts_s"].values()))
        assert stage["step_s"] == pytest.approx(stage["rollout_s"] + stage["train_s"] + stage["sync_at_least_s"])
        assert stage["hours"] == pytest.approx(stage["steps"] * stage["step_s"] / 3600)
    hours = sum(stage["hours"] for stage in found["stages"].values()) + found["evaluation_hours"]
    assert found["gpu_hours"] == pytest.approx(16 * hours)


@pytest.mark.parametrize(
    ("mode", "transport", "is_beside"),
    [("async", "distributed", True), ("async", "disk", False), ("sync", "distributed", False)],
)
def test_a_bucket_is_beside_training_where_weights_are_broadcast_in_flight(
    mode: str, transport: str, is_beside: bool, root: Path
) -> None:
    sets = f"rollout.mode={mode}", f"sync.transport={transport}", *(f"stages.{i}.loss.tis_cap=2" for i in (0, 1))
    assert (as_json(ask(root, *sets))["ranks"][0]["in_flight"] > 0) is is_beside


def test_a_folders_own_config_json_has_the_last_word(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "DeepSeek-R1-Distill-Qwen-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(PRESETS["deepseek-r1-distill-qwen-7b"] | {"num_hidden_layers": 14}))
    plan = ask(root, f"model.path={folder}")
    assert plan.model.origin == str(folder / "config.json")
    assert plan.model.architecture.num_layers == 14


def test_a_model_that_nobody_knows_is_told_with_those_that_are_known(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no config\.json, and no preset is called nothing; .*deepseek-r1-distill-qwen-7b"
    ):
        ask(root, f"model.path={tmp_path / 'nothing'}")


def test_an_unknown_gpu_is_told_with_those_that_are_known(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"--gpu: v100 is not known; known are a100-40g, a100-80g, .*h100-80g"):
        ask(root, gpu="v100")


@pytest.mark.parametrize(
    ("overrides", "gpus", "reason"),
    [
        (["megatron.tensor_model_parallel_size=3"], 12, "tensor_model_parallel_size: 3 does not divide the 28"),
        (["megatron.pipeline_model_parallel_size=3"], 24, "3 stages cannot share 28 layers evenly"),
        (["megatron.tensor_model_parallel_size=1"], 16, "sequence_parallel: true, but tensor_model_parallel_size is 1"),
        (["megatron.recompute_granularity=full"], 16, "full needs recompute_method and recompute_num_layers"),
        (["rollout.colocated=true", "rollout.mode=ahead"], 16, "colocated servers cannot sample while"),
        ([], 12, "the trainer's 6 GPUs are no multiple of tensor 4 = 4"),
        (["megatron.context_parallel_size=4"], 16, "8 GPUs are no multiple of tensor 4 x context 4 = 16"),
        (["rollout.tensor_parallel_size=3"], 18, "tensor_parallel_size: 3 does not divide the 28 attention heads"),
        (["policy.max_tokens_per_micro_batch=8192"], 16, "8192 cannot hold a response of stage explore of 8192 tokens"),
        (["megatron.tensor_model_parallel_size=1", "megatron.sequence_parallel=false"], 2, "over by"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_with_its_reason(overrides: list[str], gpus: int, reason: str, root: Path) -> None:
    plan = ask(root, *overrides, gpus=gpus)
    assert any(reason in problem for problem in plan.problems), plan.problems
    assert not plan.stages


def test_how_much_memory_is_missing_is_told_to_the_tenth(root: Path) -> None:
    plan = ask(root, "megatron.tensor_model_parallel_size=1", "megatron.sequence_parallel=false", gpus=2)
    assert plan.memory
    over = (plan.memory.ranks[0].peak - plan.gpu.memory_bytes) / 2**30
    assert f"over by {over:.1f} GiB" in plan.problems[0]


def test_an_impossible_plan_ends_the_command_with_its_reasons(root: Path) -> None:
    command = ["plan", str(root / "configs/r1_distill_qwen_7b.yaml"), "--gpus", "12", "--json"]
    told = forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *command])
    assert told.returncode == ConfigError.exit_code
    assert "egrc: error: the trainer's 6 GPUs are no multiple of tensor 4 = 4" in told.stderr
    assert json.loads(told.stdout)["possible"] is False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gpus": 1}, "--gpus: 1, of which servers would have 0"),
        ({"rollout_gpus": 16}, "servers would have 16 .--rollout-gpus. and the trainer 0"),
        ({"mean_tokens": float("nan")}, "--mean-tokens: nan, must lie above 0"),
        (
            {"mean_tokens": 5000.0},
            "--mean-tokens: 5000, must lie above 0 and below 4096, where responses of stage compress end",
        ),
    ],
)
def test_a_question_that_contradicts_itself_is_refused(options: dict, told: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        ask(root, **options)


def test_colocated_servers_share_every_gpu_and_leave_no_room_for_others(root: Path) -> None:
    colocated = ["rollout.server=sglang", "rollout.colocated=true", "rollout.num_servers=16"]
    plan = ask(root, *colocated)
    assert (plan.split.trainer, plan.split.rollout) == (16, 16)
    assert plan.memory and plan.memory.colocated_peak
    assert plan.memory.colocated_peak <= plan.gpu.memory_bytes
    # the cache has what the trainer leaves
    apart = ask(root).memory
    assert apart and plan.memory.server.kv_cache < apart.server.kv_cache
    assert "16 GPUs train and serve in turn" in page(plan)
    fewer = ask(root, *colocated, "rollout.num_servers=8")
    assert "16 GPUs train and, 8 of them, serve in turn" in page(fewer)
    assert (fewer.split.trainer, fewer.split.rollout) == (16, 8)
    with pytest.raises(ConfigError, match="colocated servers stand on the trainer's GPUs"):
        ask(root, *colocated, rollout_gpus=8)
    with pytest.raises(ConfigError, match=r"rollout\.num_servers: 16 of 1 GPUs are more than the 8 of --gpus"):
        ask(root, *colocated, gpus=8)


def test_started_servers_have_the_gpus_that_the_configuration_gives_them(root: Path) -> None:
    servers = ["rollout.server=sglang", "rollout.num_servers=2", "rollout.tensor_parallel_size=2"]
    plan = ask(root, *servers, gpus=12)
    assert (plan.split.trainer, plan.split.rollout) == (8, 4)


def test_the_small_recipe_is_planned_too(root: Path) -> None:
    plan = ask(root, recipe=SMALL, gpus=8)
    assert not plan.problems and plan.stages


def test_sampling_one_step_ahead_takes_the_longer_of_both_phases(root: Path) -> None:
    ahead = ask(root, "rollout.mode=ahead")
    for stage in ahead.stages:
        time = stage.time
        assert time.total == max(time.rollout, time.training.total) + time.sync
    assert ahead.hours < ask(root).hours


def test_sampling_all_the_time_has_servers_alone_wait_for_weights(root: Path) -> None:
    plan = ask(root, "rollout.mode=async")
    for stage in plan.stages:
        time = stage.time
        assert time.total == time.rollout + time.sync > time.training.total
        assert replace(time, rollout=time.training.total - time.sync).total == time.training.total
    assert plan.hours <= ask(root, "rollout.mode=ahead").hours


def test_old_log_probs_and_a_reference_cost_a_forward_each(root: Path) -> None:
    compress, explore = (stage.stage.work for stage in ask(root).stages)
    assert (compress.num_updates, compress.num_scorings) == (1, 0)
    assert (explore.num_updates, explore.num_scorings) == (2, 1)
    with_reference = ask(root, "stages.compress.loss.kl_coef=0.01").stages[0].stage.work
    assert with_reference.num_scorings == 1


def test_evaluations_are_of_the_base_of_each_end_and_between(root: Path) -> None:
    assert num_evaluations(ask(root).config) == 3
    often = ask(root, "evaluation.every=50")
    assert num_evaluations(often.config) == 3 + 400 // 50
    assert often.evaluation_hours == pytest.approx(11 / 3 * ask(root).evaluation_hours)


def test_spare_servers_take_gpus_of_their_own_and_none_of_the_trainings_time_unless_they_are_slower(root: Path) -> None:
    between, beside = ask(root, "evaluation.every=50"), ask(root, "evaluation.every=50", "evaluation.spare={}")
    training = sum(stage.hours for stage in beside.stages)
    assert sum(stage.hours for stage in between.stages) == training
    # one server in place of eight; training waits for the last evaluation only
    assert beside.evaluation_hours > between.evaluation_hours
    assert beside.hours == pytest.approx(training + beside.evaluation_hours / 11)
    assert beside.gpu_hours == pytest.approx(17 * beside.hours)
    server = beside.memory.server  # type: ignore[union-attr]
    assert f"spare    1 of 1 GPU beside those 16, each: {server.weights / 2**30:.2f} GiB of weights" in page(beside)
    assert "beside them: " in page(beside) and "spare" not in page(between)
    found = as_json(beside)
    assert found["gpus"]["spare"] == 1 and found["spare_server"] == found["server"]
    always = ask(root, "evaluation.every=1", "evaluation.spare={}")
    assert always.hours == always.evaluation_hours > training


def test_planning_needs_no_torch() -> None:
    """Which alone would take longer to import than a whole plan takes."""
    look = "import sys, egrc_mega.launch.plan; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", look], timeout=120).returncode == 0
