"""A step of one layout of ranks goes on under another, and of one layout of buckets: weights and optimizer."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.policy import optimizer
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import resharded_updates, updated
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.mark.usefixtures("world_of_one")
def test_a_step_loads_under_every_other_layout(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    alone = Policy(model, MegatronSection(), PolicySection())
    saved = updated(alone, 2)
    CheckpointStore(tmp_path / "one", keep=1).save(2, alone, {})
    run_on_gloo(resharded_updates, 2, model, tmp_path / "one" / "step_000002", tmp_path)
    ends = {name: load_file(tmp_path / f"{name}.safetensors") for name in ("stayed", "round", "from one")}
    for name, weight in saved.items():
        assert torch.equal(ends["from one"][name], weight)
        # the update after it is bitwise the same only with every bit of the optimizer's state
        assert torch.equal(ends["round"][name], ends["stayed"][name])
    # a step of two tensor-parallel ranks, continued by one
    load(tmp_path / "1" / "step_000002", alone)
    for name, weight in updated(alone, 1).items():
        torch.testing.assert_close(weight, ends["stayed"][name], rtol=0, atol=1e-5)


@pytest.mark.usefixtures("world_of_one")
def test_a_state_in_many_padded_buckets_goes_on_bitwise_in_one_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    original = optimizer.DistributedDataParallelConfig

    def build(bucket_size: int | None) -> Policy:
        monkeypatch.setattr(optimizer, "DistributedDataParallelConfig", partial(original, bucket_size=bucket_size))
        return Policy(model, MegatronSection(overlap_grad_reduce=True), PolicySection())

    stayed = policy = build(500)
    buckets = [bucket for buffer in stayed.model[0].buffers for bucket in buffer.buckets]
    assert any(bucket.grad_data.numel() > sum(weight.numel() for weight in bucket.params) for bucket in buckets[:-1])
    updated(stayed, 2)
    for number, bucket_size in enumerate((None, 1500)):
        CheckpointStore(tmp_path / str(number), keep=1).save(2, policy, {})
        policy = build(bucket_size)
        load(tmp_path / str(number) / "step_000002", policy)
    expected, found = updated(stayed, 1), updated(policy, 1)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
