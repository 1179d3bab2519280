"""Micro-batches: every sample once, within the budget, the same number on every rank, never an empty one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egrc_mega.errors import PolicyError
from egrc_mega.policy.packing import build_micro_batch, flat_offsets, plan_bins
from egrc_mega.testing.policy_worker import ragged_samples


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    budget=st.integers(64, 300),
    num_ranks=st.sampled_from([1, 2, 3, 8]),
)
def test_plans_are_whole_within_budget_and_even(lengths: list[int], budget: int, num_ranks: int) -> None:
    bins = plan_bins(lengths, budget, num_ranks)
    assert len(bins) % num_ranks == 0
    assert all(bin_.indices for bin_ in bins)
    assert sorted(i for bin_ in bins if not bin_.is_filler for i in bin_.indices) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in bin_.indices) <= budget for bin_ in bins)


def test_a_sample_beyond_the_budget_is_an_error_with_the_remedy() -> None:
    with pytest.raises(PolicyError, match=r"sample of 65 tokens exceeds policy\.max_tokens_per_micro_batch = 64"):
        plan_bins([3, 65], 64, 1)


def test_fewer_samples_than_ranks_are_filled_up_with_weightless_copies() -> None:
    samples = ragged_samples(1)
    real, filler = plan_bins([samples[0].num_tokens], 64, 2)
    assert (real.is_filler, filler.is_filler) == (False, True)
    batch = build_micro_batch(samples, filler, None, torch.device("cpu"))
    assert batch.spans == ()
    assert float(batch.coefficients_R.abs().sum()) == 0.0


def test_rows_point_at_the_tokens_before_the_outputs_and_positions_restart() -> None:
    samples = ragged_samples(7)
    [bin_] = plan_bins([s.num_tokens for s in samples], 4096, 1)
    old = torch.arange(float(flat_offsets(samples)[-1]))
    batch = build_micro_batch(samples, bin_, old, torch.device("cpu"))
    outputs = [token for i in bin_.indices for token in samples[i].output_ids]
    assert batch.targets_R.tolist() == outputs
    assert batch.input_ids_1T[0, batch.rows_R + 1].tolist() == outputs
    assert batch.position_ids_1T[0].tolist() == [p for i in bin_.indices for p in range(samples[i].num_tokens)]
    offsets = flat_offsets(samples)
    expected = [float(offsets[i] + t) for i in bin_.indices for t in range(len(samples[i].output_ids))]
    assert batch.old_logprobs_R.tolist() == expected
    weights = [samples[i].advantage * w for i in bin_.indices for w in samples[i].loss_weights]
    assert batch.coefficients_R.tolist() == pytest.approx(weights)
