"""What micro-batches leave behind: each sample's own values in its own places, fillers nowhere, sums and extremes."""

import pytest
import torch
from egrc_kernels.linear_logprob import LogprobStats
from egrc_kernels.policy_loss import LossMetrics

from egrc_mega.policy.balance import plan_loads
from egrc_mega.policy.packing import Baselines, MicroBatch, build_micro_batch, flat_offsets
from egrc_mega.policy.pass_sums import PassSums
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.types import TrainSample

pytestmark = pytest.mark.usefixtures("world_of_one")


def batches_of(samples: list[TrainSample], budget: int, num_ranks: int, multiple: int = 1) -> list[MicroBatch]:
    """Of all ranks, in order."""
    plans = plan_loads([s.num_tokens for s in samples], [1.0] * len(samples), budget, num_ranks, multiple)
    loads = [load for plan in plans for load in plan]
    return [build_micro_batch(samples, load, Baselines(), torch.device("cpu")) for load in loads]


def stats_of(batch: MicroBatch, offset: float = 0.0) -> LogprobStats:
    """The place of each token as its log-prob, and two multiples of it."""
    places = batch.flat_R.float() + offset
    return LogprobStats(places, 2 * places, 3 * places)


def metrics(**values: float) -> LossMetrics:
    zeros = dict.fromkeys(LossMetrics._fields, 0.0)
    return LossMetrics(**{name: torch.tensor(value) for name, value in (zeros | values).items()})


@pytest.mark.parametrize(("count", "budget", "ranks"), [(7, 4096, 1), (7, 60, 1), (5, 60, 2), (1, 64, 3), (2, 64, 5)])
def test_every_token_has_its_own_value_and_a_filler_writes_nothing(count: int, budget: int, ranks: int) -> None:
    samples = ragged_samples(count)
    num_outputs = int(flat_offsets(samples)[-1])
    collected = PassSums(num_outputs)
    batches = batches_of(samples, budget, ranks)
    if count < ranks:
        assert sum(batch.is_filler for batch in batches) == ranks - count
    # first the samples, then the fillers: one that wrote would be seen
    for batch in sorted(batches, key=lambda batch: batch.is_filler):
        collected.add(batch, stats_of(batch, offset=1000.0 if batch.is_filler else 0.0))
    found = collected.joined().stats
    places = torch.arange(float(num_outputs))
    assert torch.equal(found.logprobs, places)
    assert torch.equal(found.entropies_rollout, 2 * places)
    assert torch.equal(found.entropies, 3 * places)


def test_a_filler_has_no_weight_so_no_figure_counts_it() -> None:
    samples = ragged_samples(1)
    [_own, filler] = sorted(batches_of(samples, 64, 2), key=lambda batch: batch.is_filler)
    assert not filler.rows.weights_R.any()
    assert filler.flat_R.tolist() == list(range(len(samples[0].output_ids)))


def test_losses_and_sums_are_added_up_and_extremes_are_the_lowest_and_the_highest() -> None:
    collected = PassSums(0)
    sums = {
        "num_tokens": 3.0,
        "num_clipped": 1.0,
        "approx_kl": 0.5,
        "tis_weight": 1.5,
        "num_masked": 2.0,
        "num_masked_sequences": 1.0,
    }
    for factor, low, high in ((1.0, 0.9, 1.1), (2.0, 0.7, 1.05), (3.0, 0.8, 1.6)):
        values = {name: factor * value for name, value in sums.items()}
        collected.add_loss(torch.tensor(factor), metrics(**values, ratio_min=low, ratio_max=high))
    found = collected.joined()
    assert found.loss == 6.0
    assert {name: float(getattr(found.metrics, name)) for name in sums} == {n: 6 * v for n, v in sums.items()}
    assert float(found.metrics.ratio_min) == pytest.approx(0.7)
    assert float(found.metrics.ratio_max) == pytest.approx(1.6)


def test_a_pass_without_a_loss_has_empty_sums_and_no_extreme() -> None:
    found = PassSums(2).joined()
    assert (found.loss, float(found.metrics.num_tokens)) == (0.0, 0.0)
    assert (float(found.metrics.ratio_min), float(found.metrics.ratio_max)) == (float("inf"), -float("inf"))
