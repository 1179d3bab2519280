"""The updates of a batch on a real policy: the log-prob gate, what is scored, several updates per rollout."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

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
from egrc_mega.training.update import UpdateMetrics, run_updates
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
    # over what is trained on, in which the wrong one is, and not over what is scored only
    num_trained = sum(int(((s.loss_weights != 0) & s.sampled).sum()) for s in batch.updates[0])
    assert metrics.mismatch_kl == pytest.approx(2e-4**2 / 2 / num_trained, rel=0.1)


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


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize(("cap", "expected"), [(None, 1.0), (3.0, 2.0), (1.5, 1.5)])
def test_the_mean_weight_of_importance_sampling_is_told(
    policy: Policy, cap: float | None, expected: float, num_updates: int
) -> None:
    halved = tuple(
        tuple(replace(s, rollout_logprobs=s.rollout_logprobs - np.log(2)) for s in update)
        for update in batch_of(policy, num_updates).updates
    )
    stage = STAGE.model_copy(update={"loss": STAGE.loss.model_copy(update={"tis_cap": cap})})
    section = SECTION.model_copy(update={"logprob_check": False})
    metrics = run_updates(policy, Batch(halved, ()), stage, section, 0)
    assert metrics.tis_weight == pytest.approx(expected, rel=1e-5)
    # equal weights are worth all, whatever the cap does to them
    assert (metrics.ess_tokens, metrics.mismatch_kl) == pytest.approx((1.0, 1 - math.log(2)), rel=1e-5)
    lengths = [int((s.loss_weights > 0).sum()) for update in halved for s in update]
    of_sequences = [2.0 ** (length - max(lengths)) for length in lengths]
    ess = sum(of_sequences) ** 2 / (len(lengths) * sum(w**2 for w in of_sequences))
    assert metrics.ess_sequences == pytest.approx(ess, rel=1e-4)


@pytest.mark.parametrize("num_updates", [1, 2])
def test_the_shares_of_masked_tokens_and_responses_are_told(policy: Policy, num_updates: int) -> None:
    """The server of every third response says half the probability: a ratio of 2, outside of both masks."""
    updates = batch_of(policy, num_updates).updates
    samples = [sample for update in updates for sample in update]
    off = {id(sample) for sample in samples[::3]}
    updates = tuple(
        tuple(replace(s, rollout_logprobs=s.rollout_logprobs - np.log(2) * (id(s) in off)) for s in update)
        for update in updates
    )
    section = SECTION.model_copy(update={"logprob_check": False})
    still = STAGE.model_copy(update={"optim": STAGE.optim.model_copy(update={"lr": 1e-12})})
    masked = sum(int((s.loss_weights > 0).sum()) for s in samples if id(s) in off)
    share = masked / sum(int((s.loss_weights > 0).sum()) for s in samples)
    sequences = len(off) / len(samples)
    assert 0 < share < 1 and share != pytest.approx(sequences)
    for options, expected in (
        ({}, (0.0, 0.0)),
        ({"token_mask": (0.6, 1.6)}, (share, 0.0)),
        ({"sequence_mask": (0.6, 1.6)}, (share, sequences)),
        ({"sequence_mask": (0.6, 2.5)}, (0.0, 0.0)),
    ):
        stage = still.model_copy(update={"loss": STAGE.loss.model_copy(update=options)})
        metrics = run_updates(policy, Batch(updates, ()), stage, section, 0)
        assert (metrics.masked_fraction, metrics.masked_sequence_fraction) == pytest.approx(expected), options


def test_a_ratio_to_the_reference_begins_where_the_policy_has_come_to(tmp_path: Path) -> None:
    policy = Policy(write_tiny_qwen2(tmp_path / "model"), MegatronSection(), SECTION, keeps_reference=True)
    stage = STAGE.model_copy(update={"loss": STAGE.loss.model_copy(update={"old_logprobs": "reference"})})
    first = run_updates(policy, batch_of(policy), stage, SECTION, 0)
    assert (first.ratio_min, first.ratio_max, first.kl) == pytest.approx((1.0, 1.0, 0.0), abs=1e-4)
    batch = batch_of(policy)
    reference = policy.score_reference(list(batch.updates[0]), 0.7)
    moved = policy.score(list(batch.updates[0]), 0.7).logprobs - reference
    trained = torch.from_numpy(np.concatenate([s.loss_weights > 0 for s in batch.updates[0]]))
    second = run_updates(policy, batch, stage, SECTION, 1)
    assert second.ratio_max == pytest.approx(float(moved[trained].exp().max()), rel=1e-4)
    assert second.ratio_max > 1.001 and second.kl is not None and second.kl > 1e-6


def test_entropies_of_the_kept_are_those_of_the_samples_with_an_advantage_also_under_a_kl_term(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    policy = Policy(folder, MegatronSection(), SECTION, keeps_reference=True)
    plain, stage = batch_of(policy), ExploreSection(rollout={"temperature": 0.7}, loss={"kl_coef": 0.1})
    # under a KL term every graded sample is in the update
    batch = Batch(((*plain.dropped, *plain.updates[0]),), ())
    under_kl = run_updates(policy, batch, stage, SECTION, 0)
    expected = run_updates(Policy(folder, MegatronSection(), SECTION), plain, STAGE, SECTION, 0)
    for field in ("entropy", "entropy_kept", "entropy_rollout_kept"):
        assert getattr(under_kl, field) == pytest.approx(getattr(expected, field), rel=1e-5), field
    assert under_kl.entropy_kept != pytest.approx(under_kl.entropy, rel=1e-5)


@pytest.mark.parametrize("num_updates", [1, 2])
def test_a_stage_without_a_kl_term_asks_no_reference_although_another_stage_needs_one(
    tmp_path: Path, num_updates: int
) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    alone, beside = (Policy(folder, MegatronSection(), SECTION, keeps_reference=keeps) for keeps in (False, True))
    batch = batch_of(alone, num_updates)
    expected, found = (run_updates(policy, batch, STAGE, SECTION, 0) for policy in (alone, beside))
    assert found == expected
    assert found.kl is None


def test_a_kl_term_without_an_advantage_has_no_entropy_of_kept_samples(tmp_path: Path) -> None:
    policy = Policy(write_tiny_qwen2(tmp_path / "model"), MegatronSection(), SECTION, keeps_reference=True)
    stage = ExploreSection(rollout={"temperature": 0.7}, loss={"kl_coef": 0.1})
    metrics = run_updates(policy, Batch((batch_of(policy).dropped,), ()), stage, SECTION, 0)
    assert metrics.entropy is not None
    assert (metrics.entropy_kept, metrics.entropy_rollout_kept) == (None, None)


def test_a_batch_without_an_advantage_moves_nothing_and_is_measured(policy: Policy) -> None:
    batch = Batch((), batch_of(policy).dropped)
    before = weights(policy)
    metrics = run_updates(policy, batch, CompressSection(rollout={"temperature": 0.7}), SECTION, 0)
    assert (metrics.num_updates, metrics.loss, metrics.grad_norm, metrics.lr) == (0, None, None, None)
    assert (metrics.tis_weight, metrics.masked_fraction, metrics.masked_sequence_fraction) == (None, None, None)
    assert (metrics.ess_tokens, metrics.ess_sequences, metrics.mismatch_kl) == (None, None, None)
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


# every field of the metrics, recomputed from the log-probs of a policy that takes the same updates by hand

TIGHT = ExploreSection(
    steps=4,
    rollout={"temperature": 0.7},
    optim={"lr": 3e-3, "decay": "linear", "num_updates_per_rollout": 2},
    loss={"ratio": "token", "eps_clip": 0.01, "eps_clip_high": 0.02},
)


@dataclass
class ByHand:
    """What each update saw: its samples, log-probs before the first update, those at the update, gradient norms."""

    updates: Sequence[Sequence[TrainSample]]
    old: list[torch.Tensor]
    live: list[torch.Tensor]
    grad_norms: list[float]

    def rows(self) -> list[list[tuple[float, float, float, float]]]:
        """Of each update and each trained token: weight, advantage, old and present log-prob."""
        return [
            [
                (float(w), float(a), float(o), float(p))
                for w, a, o, p in zip(
                    np.concatenate([s.loss_weights for s in update]),
                    np.concatenate([s.advantages for s in update]),
                    old,
                    live,
                    strict=True,
                )
                if w
            ]
            for update, old, live in zip(self.updates, self.old, self.live, strict=True)
        ]


def by_hand(folder: Path, updates: Sequence[Sequence[TrainSample]], rates: Sequence[float]) -> ByHand:
    policy = Policy(folder, MegatronSection(), SECTION)
    old = [policy.score(update, 0.7).logprobs for update in updates]
    live, norms = [], []
    for update, before, rate in zip(updates, old, rates, strict=True):
        live.append(policy.score(update, 0.7).logprobs)
        norms.append(policy.update(update, 0.7, TIGHT.loss, rate, Baselines(old=before)).grad_norm)
    return ByHand(updates, old, live, norms)


def objective(advantage: float, ratio: float) -> float:
    return min(advantage * ratio, advantage * min(max(ratio, 0.99), 1.02))


@pytest.fixture(params=[False, True], ids=["in order", "turned round"])
def measured(request: pytest.FixtureRequest, policy: Policy, tmp_path: Path) -> tuple[UpdateMetrics, Batch, ByHand]:
    """Of the third step of a stage of four, two updates a step: the fifth and sixth of eight."""
    batch = batch_of(policy, num_updates=2)
    if request.param:
        batch = Batch(batch.updates[::-1], batch.dropped)
    before = policy.work
    metrics = run_updates(policy, batch, TIGHT, SECTION, index_in_stage=2)
    assert metrics.work == policy.work - before
    return metrics, batch, by_hand(tmp_path / "model", batch.updates, [3e-3 * (1 - 5 / 8), 3e-3 * (1 - 6 / 8)])


def test_loss_and_gradient_norm_are_the_mean_and_the_largest_of_the_updates(measured: Any) -> None:
    metrics, _batch, hand = measured
    losses = [-sum(w * objective(a, math.exp(p - o)) for w, a, o, p in rows) for rows in hand.rows()]
    assert metrics.loss == pytest.approx(sum(losses) / 2, rel=1e-4, abs=1e-6)
    assert abs(hand.grad_norms[0] - hand.grad_norms[1]) > 0.01 * max(hand.grad_norms)
    assert metrics.grad_norm == pytest.approx(max(hand.grad_norms), rel=1e-5)
    assert metrics.num_updates == 2


def test_ratio_clip_and_kl_figures_are_over_the_trained_tokens_of_all_updates(measured: Any) -> None:
    metrics, _batch, hand = measured
    tokens = [row for rows in hand.rows() for row in rows]
    ratios = [math.exp(p - o) for _w, _a, o, p in tokens]
    clipped = [(a > 0 and r > 1.02) or (a < 0 and r < 0.99) for (_w, a, _o, _p), r in zip(tokens, ratios, strict=True)]
    assert 0 < sum(clipped) < len(tokens)
    assert metrics.clip_fraction == pytest.approx(sum(clipped) / len(tokens), abs=1e-6)
    k3 = [r - 1 - math.log(r) for r in ratios]
    assert metrics.approx_kl == pytest.approx(sum(k3) / len(tokens), rel=1e-3)
    assert min(ratios) < 0.99 and max(ratios) > 1.02
    assert metrics.ratio_min == pytest.approx(min(ratios), rel=1e-5)
    assert metrics.ratio_max == pytest.approx(max(ratios), rel=1e-5)


def test_the_rate_told_is_that_of_the_last_update_and_the_work_is_of_every_pass(measured: Any) -> None:
    metrics, batch, _hand = measured
    assert metrics.lr == pytest.approx(3e-3 * (1 - 6 / 8), rel=1e-6)
    kept, dropped = (sum(s.num_tokens for s in part) for part in (sum(batch.updates, ()), batch.dropped))
    # all are scored, and what is kept is trained on
    assert metrics.work.num_tokens == dropped + 2 * kept
    assert metrics.kl is None


def test_differences_are_over_the_compared_tokens_of_kept_and_dropped_samples(policy: Policy) -> None:
    batch = batch_of(policy, num_updates=2)
    shift = np.float32(3e-5)

    def shifted(sample: TrainSample, by: np.float32) -> TrainSample:
        compared = sample.compared.copy()
        compared[-1] = False
        server = sample.rollout_logprobs - by
        server[-1] = 5.0  # of other weights: whatever it says
        return replace(sample, rollout_logprobs=server, compared=compared)

    updates = tuple(tuple(shifted(s, shift) for s in update) for update in batch.updates)
    dropped = tuple(shifted(s, 2 * shift) for s in batch.dropped)
    metrics = run_updates(policy, Batch(updates, dropped), STAGE, SECTION, 0)
    num_kept = sum(int(s.compared.sum()) for update in updates for s in update)
    num_dropped = sum(int(s.compared.sum()) for s in dropped)
    assert metrics.logprob_diff_max == pytest.approx(6e-5, abs=1e-6)
    expected = (3e-5 * num_kept + 6e-5 * num_dropped) / (num_kept + num_dropped)
    assert metrics.logprob_diff_mean == pytest.approx(expected, abs=1e-6)


def test_entropies_of_several_updates_are_those_before_the_first(policy: Policy) -> None:
    batch = batch_of(policy, num_updates=2)
    kept = [s for update in batch.updates for s in update]
    mask = torch.from_numpy(np.concatenate([s.sampled for s in kept]))
    expected = float(policy.score(kept, 0.7).entropies[mask].mean())
    metrics = run_updates(policy, batch, TIGHT, SECTION, 0)
    assert metrics.entropy_kept == pytest.approx(expected, rel=1e-5)


def test_where_nothing_is_dropped_the_mean_over_all_is_that_over_the_kept(policy: Policy) -> None:
    for section in (SECTION, SECTION.model_copy(update={"score_dropped": False})):
        metrics = run_updates(policy, Batch(batch_of(policy).updates, ()), STAGE, section, 0)
        assert metrics.entropy == metrics.entropy_kept is not None
        assert metrics.entropy_rollout == metrics.entropy_rollout_kept


def test_a_batch_of_dropped_samples_that_nobody_scores_has_no_figures(policy: Policy) -> None:
    batch = Batch((), batch_of(policy).dropped)
    metrics = run_updates(policy, batch, STAGE, SECTION.model_copy(update={"score_dropped": False}), 0)
    told = {field.name: getattr(metrics, field.name) for field in fields(UpdateMetrics)}
    assert told.pop("num_updates") == 0
    assert told.pop("work").num_tokens == 0
    assert set(told.values()) == {None}
