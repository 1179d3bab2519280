"""What a step's record says of time, memory and arithmetic."""

import time
from pathlib import Path

import pytest

from egrc_mega.config.schema import ExploreStage, LossSection, MegatronSection, PolicySection
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.flops import Work
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training.accounting import Accounting
from egrc_mega.training.batch import Batch
from egrc_mega.training.update import run_updates

pytestmark = pytest.mark.usefixtures("world_of_one")


def test_tflops_and_mfu_follow_the_documented_formula() -> None:
    accounting = Accounting()
    with accounting.phase("train"):
        time.sleep(0.05)
    accounting.times |= {"rollout": 0.5, "rollout_ahead": 7.0}  # the latter beside the step before
    record = accounting.record(Work(num_tokens=1000, flops=3 * 10**12), peak_tflops=100.0)
    seconds = record["time_train_s"]
    assert 0.05 <= seconds < 0.5
    assert record["train_tflops"] == pytest.approx(3 / seconds)
    assert record["mfu"] == pytest.approx(3 / seconds / 100)
    assert record["train_tokens_per_s"] == pytest.approx(1000 / seconds)
    assert record["time_step_s"] == pytest.approx(seconds + 0.5)
    assert record["memory_train_gib"] > 0.1
    assert accounting.record(Work(), peak_tflops=None)["mfu"] is None


def test_an_update_counts_three_forwards_and_a_score_one(tmp_path: Path) -> None:
    policy = Policy(write_tiny_qwen2(tmp_path / "model"), MegatronSection(), PolicySection())
    samples = ragged_samples()
    lengths = [sample.num_tokens for sample in samples]
    forward = policy.flops.forward(lengths, sum(len(sample.output_ids) for sample in samples))
    policy.score(samples, 1.0)
    assert policy.work == Work(sum(lengths), forward)
    policy.update(samples, 1.0, LossSection(), lr=1e-3)
    assert policy.work == Work(2 * sum(lengths), 4 * forward)


def test_the_metrics_of_updates_hold_their_own_work_and_rate(tmp_path: Path) -> None:
    policy = Policy(write_tiny_qwen2(tmp_path / "model"), MegatronSection(), PolicySection(logprob_check=False))
    samples = ragged_samples()
    stage = ExploreStage(name="explore", steps=10, optim={"lr": 1e-3, "num_updates_per_rollout": 2, "decay": "linear"})
    batch = Batch((tuple(samples[:6]), tuple(samples[6:])), ())
    for index in range(2):
        metrics = run_updates(policy, batch, stage, policy.section, index)
        assert metrics.lr == pytest.approx(1e-3 * (1 - (2 * index + 2) / 20))
        # scored once, then forward and backward
        assert metrics.work.num_tokens == 2 * sum(sample.num_tokens for sample in samples)
