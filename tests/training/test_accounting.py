"""What a step's record says of time, memory and arithmetic."""

import time
from pathlib import Path

import pytest

from egrc_mega.methods.explore import ExploreSection
from egrc_mega.observe.spans import RECORDER, Span
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.flops import Work
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training.accounting import Accounting
from egrc_mega.training.batch import Batch
from egrc_mega.training.update import run_updates

pytestmark = pytest.mark.usefixtures("world_of_one")


def ended(name: str, seconds: float, inside_s: float = 0.0, thread: str = "MainThread", **facts: int) -> Span:
    return Span(
        name=name,
        start=1.0,
        end=1.0 + seconds,
        inside_s=inside_s,
        depth=0,
        thread=thread,
        rank=0,
        facts=facts,
        error=None,
    )


def test_sampling_ahead_counts_for_the_step_that_it_is_for_whenever_it_ends() -> None:
    accounting = Accounting()
    early, late = (ended("ahead", seconds, thread="ahead", step=step) for seconds, step in ((7.0, 1), (3.0, 2)))
    records = [accounting.record(step, spans, Work(), None) for step, spans in ((0, [early]), (1, []), (2, [late]))]
    assert [record.get("time_rollout_ahead_s") for record in records] == [None, 7.0, 3.0]
    assert all(record["time_step_s"] == 0.0 for record in records)
    assert accounting._ahead == []


def test_tflops_and_mfu_follow_the_documented_formula() -> None:
    accounting = Accounting()
    RECORDER.take()
    with accounting.phase("train"):
        time.sleep(0.05)
    spans = [*RECORDER.take(), ended("rollout", 0.75, inside_s=0.25), ended("grade", 0.25)]
    record = accounting.record(3, spans, Work(num_tokens=1000, flops=3 * 10**12), peak_tflops=100.0)
    seconds = record["time_train_s"]
    assert 0.05 <= seconds < 0.5
    assert record["train_tflops"] == pytest.approx(3 / seconds)
    assert record["mfu"] == pytest.approx(3 / seconds / 100)
    assert record["train_tokens_per_s"] == pytest.approx(1000 / seconds)
    assert (record["time_rollout_s"], record["time_grade_s"]) == (0.5, 0.25)
    assert "time_rollout_ahead_s" not in record
    assert record["time_step_s"] == pytest.approx(seconds + 0.75)
    assert record["memory_train_gib"] > 0.1
    assert accounting.record(4, [], Work(), peak_tflops=None)["mfu"] is None


def test_operations_are_a_rank_s_share_of_the_whole_and_memory_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 8)
    accounting = Accounting()
    with accounting.phase("train"):
        pass
    first, second = (
        accounting.record(step, [ended("train", 2.0)], Work(num_tokens=100, flops=16 * 10**12), 4.0) for step in (0, 1)
    )
    assert (first["train_tflops"], first["mfu"], first["train_tokens_per_s"]) == (1.0, 0.25, 50.0)
    assert "memory_train_gib" in first and "memory_train_gib" not in second


def test_work_is_added_and_taken_away_token_by_token_and_operation_by_operation() -> None:
    assert Work(5, 7) + Work(2, 30) == Work(7, 37)
    assert Work(5, 70) - Work(2, 30) == Work(3, 40)


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
    stage = ExploreSection(steps=10, optim={"lr": 1e-3, "num_updates_per_rollout": 2, "decay": "linear"})
    batch = Batch((tuple(samples[:6]), tuple(samples[6:])), ())
    for index in range(2):
        metrics = run_updates(policy, batch, stage, policy.section, index)
        assert metrics.lr == pytest.approx(1e-3 * (1 - (2 * index + 2) / 20))
        # scored once, then forward and backward
        assert metrics.work.num_tokens == 2 * sum(sample.num_tokens for sample in samples)
