"""The updates of a batch on a real policy: the log-prob gate, what is scored, several updates per rollout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egrc_mega.errors import PolicyError
from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training.batch import Batch
from egrc_mega.training.update import run_updates
from egrc_mega.types import TrainSample

pytestmark = pytest.mark.usefixtures("world_of_one")

SECTION = PolicySection(logprob_bound=1e-4)
STAGE = ExploreSection(rollout={"temperature": 0.7}, optim={"lr": 1e-3})


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(write_tiny_qwen2(tmp_path / "model"), MegatronSection(), SECTION)


def with_true_log_probs(policy: Policy, samples: list[TrainSample]) -> list[TrainSample]:
    """What an exact server would have sent; NaN where the environment wrote."""
    values = policy.score(samples, 0.7).logprobs.split([len(sample.output_ids) for sample in samples])
    return [
        replace(s, rollout_logprobs=np.where(s.sampled, own, np.float32(np.nan)), compared=s.sampled)
        for s, own in zip(samples, values, strict=True)
    ]


def batch_of(policy: Policy, num_updates: int = 1) -> Batch:
    samples = with_true_log_probs(policy, ragged_samples())
    kept = [s for s in samples if s.advantages.any()]
    dropped = [s for s in samples if not s.advantages.any()]
    size = -(-len(kept) // num_updates)
    return Batch(tuple(tuple(kept[i : i + size]) for i in range(0, len(kept), size)), tuple(dropped))


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.export_hf()}


def with_one_wrong(samples: tuple[TrainSample, ...]) -> tuple[TrainSample, ...]:
    first, *rest = samples
    wrong = first.rollout_logprobs.copy()
    wrong[0] -= 2e-4
    return (replace(first, rollout_logprobs=wrong), *rest)


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("where", ["kept", "dropped"])
def test_a_difference_above_the_bound_stops_the_run_before_any_weight_moves(
    policy: Policy, where: str, num_updates: int
) -> None:
    batch = batch_of(policy, num_updates)
    if where == "kept":
        batch = Batch((with_one_wrong(batch.updates[0]), *batch.updates[1:]), batch.dropped)
    else:
        batch = Batch(batch.updates, with_one_wrong(batch.dropped))
    before = weights(policy)
    with pytest.raises(PolicyError, match=r"differ by 0\.0002, more than policy\.logprob_bound = 0\.0001"):
        run_updates(policy, batch, STAGE, SECTION, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.export_hf())


def test_the_check_can_be_switched_off_and_is_still_logged(policy: Policy) -> None:
    batch = batch_of(policy)
    batch = Batch((with_one_wrong(batch.updates[0]),), batch.dropped)
    metrics = run_updates(policy, batch, STAGE, SECTION.model_copy(update={"logprob_check": False}), 0)
    assert metrics.logprob_diff_max == pytest.approx(2e-4, rel=0.05)
    assert metrics.num_updates == 1


def test_entropies_are_over_the_policys_tokens_of_kept_and_of_all_samples(policy: Policy) -> None:
    batch = batch_of(policy)

    def expected(samples: list[TrainSample], field: str) -> float:
        mask = torch.tensor([sampled for s in samples for sampled in s.sampled.tolist()])
        return float(getattr(policy.score(samples, 0.7), field)[mask].mean())

    kept, everything = list(batch.updates[0]), [*batch.dropped, *batch.updates[0]]
    found = {
        "entropy": expected(everything, "entropies"),
        "entropy_rollout": expected(everything, "entropies_rollout"),
        "entropy_kept": expected(kept, "entropies"),
        "entropy_rollout_kept": expected(kept, "entropies_rollout"),
    }
    metrics = run_updates(policy, batch, STAGE, SECTION, 0)
    assert {name: getattr(metrics, name) for name in found} == pytest.approx(found, rel=1e-5)
    assert metrics.logprob_diff_max is not None
    assert metrics.logprob_diff_max <= 1e-5


def test_without_scoring_the_dropped_there_is_no_mean_over_all(policy: Policy) -> None:
    metrics = run_updates(policy, batch_of(policy), STAGE, SECTION.model_copy(update={"score_dropped": False}), 0)
    assert metrics.entropy is None
    assert metrics.entropy_kept is not None


@pytest.mark.parametrize(("cap", "expected"), [(None, 1.0), (3.0, 2.0), (1.5, 1.5)])
def test_the_mean_weight_of_importance_sampling_is_told(policy: Policy, cap: float | None, expected: float) -> None:
    halved = tuple(replace(s, rollout_logprobs=s.rollout_logprobs - np.log(2)) for s in batch_of(policy).updates[0])
    stage = STAGE.model_copy(update={"loss": STAGE.loss.model_copy(update={"tis_cap": cap})})
    section = SECTION.model_copy(update={"logprob_check": False})
    assert run_updates(policy, Batch((halved,), ()), stage, section, 0).tis_weight == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_an_advantage_moves_nothing_and_is_measured(policy: Policy) -> None:
    batch = Batch((), batch_of(policy).dropped)
    before = weights(policy)
    metrics = run_updates(policy, batch, CompressSection(rollout={"temperature": 0.7}), SECTION, 0)
    assert (metrics.num_updates, metrics.loss, metrics.grad_norm) == (0, None, None)
    assert metrics.tis_weight is None
    assert metrics.entropy is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.export_hf())


def test_several_updates_take_their_ratio_from_before_the_first(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    together, by_hand = (Policy(folder, MegatronSection(), SECTION) for _ in range(2))
    batch = batch_of(together, num_updates=2)
    metrics = run_updates(together, batch, STAGE, SECTION, 0)
    assert metrics.num_updates == 2
    old = by_hand.score([s for update in batch.updates for s in update], 0.7).logprobs
    start = 0
    for update in batch.updates:
        end = start + sum(len(s.output_ids) for s in update)
        by_hand.update(update, 0.7, STAGE.loss, 1e-3, Baselines(old=old[start:end]))
        start = end
    expected = weights(by_hand)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in together.export_hf())
