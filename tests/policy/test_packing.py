"""The tensors of a micro-batch."""

import numpy as np
import pytest
import torch

from egrc_mega.policy.balance import plan_loads
from egrc_mega.policy.context import TokenSplit
from egrc_mega.policy.packing import Baselines, build_micro_batch, flat_offsets
from egrc_mega.testing.policy_worker import ragged_samples


def test_fewer_samples_than_ranks_are_filled_up_with_weightless_copies() -> None:
    samples = ragged_samples(1)
    plans = plan_loads([samples[0].num_tokens], [1.0], 64, 2)
    assert sorted(load.is_filler for [load] in plans) == [False, True]
    [filler] = [load for [load] in plans if load.is_filler]
    batch = build_micro_batch(samples, filler, Baselines(), torch.device("cpu"))
    assert batch.is_filler
    assert float(batch.rows.weights_R.abs().sum()) == 0.0


def test_rows_point_at_the_tokens_before_the_outputs_and_positions_restart() -> None:
    samples = ragged_samples(7)
    [[load]] = plan_loads([s.num_tokens for s in samples], [1.0] * len(samples), 4096, 1)
    old = torch.arange(float(flat_offsets(samples)[-1]))
    batch = build_micro_batch(samples, load, Baselines(old=old), torch.device("cpu"))
    outputs = [token for i in load.indices for token in samples[i].output_ids]
    assert batch.targets_R.tolist() == outputs
    assert batch.input_ids_1T[0, batch.rows_R + 1].tolist() == outputs
    assert batch.position_ids_1T[0].tolist() == [p for i in load.indices for p in range(samples[i].num_tokens)]
    offsets = flat_offsets(samples)
    expected = [float(offsets[i] + t) for i in load.indices for t in range(len(samples[i].output_ids))]
    assert batch.rows.old_logprobs_R.tolist() == expected
    weights = [w for i in load.indices for w in samples[i].loss_weights]
    assert batch.rows.weights_R.tolist() == pytest.approx(weights)
    advantages = [advantage for i in load.indices for advantage in samples[i].advantages]
    assert batch.rows.advantages_R.tolist() == pytest.approx(advantages)


def test_two_context_parallel_ranks_hold_every_row_once_and_know_whose_it_is() -> None:
    samples = ragged_samples(7)
    [[load]] = plan_loads([s.num_tokens for s in samples], [1.0] * len(samples), 4096, 1)
    splits = [TokenSplit(context_size=2, context_rank=rank) for rank in range(2)]
    halves = [build_micro_batch(samples, load, Baselines(), torch.device("cpu"), split) for split in splits]
    assert sorted(place for half in halves for place in half.flat_R.tolist()) == list(range(flat_offsets(samples)[-1]))
    flat = np.concatenate([sample.output_ids for sample in samples])
    for half in halves:
        assert half.targets_R.tolist() == flat[half.flat_R.numpy()].tolist()
        assert half.rows.boundaries_S[0] == 0 and half.rows.boundaries_S[-1] == len(half.rows_R)
    counts = sum(half.rows.boundaries_S.diff() for half in halves)
    assert counts.tolist() == [len(samples[i].output_ids) for i in load.indices]
