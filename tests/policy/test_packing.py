"""The tensors of a micro-batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from egrc_mega.policy.balance import plan_loads
from egrc_mega.policy.context import TokenSplit, chunks
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


@pytest.mark.parametrize(("sequence_size", "num_tokens"), [(8, None), (1, 200), (4, 160)])
def test_padding_is_a_sequence_of_its_own_that_no_sample_sees(sequence_size: int, num_tokens: int | None) -> None:
    samples = ragged_samples(3)
    [[load]] = plan_loads([s.num_tokens for s in samples], [1.0] * len(samples), 4096, 1)
    split = TokenSplit(sequence_size=sequence_size)
    batch = build_micro_batch(samples, load, Baselines(), torch.device("cpu"), split, num_tokens)
    lengths = [samples[i].num_tokens for i in load.indices]
    total = num_tokens or sum(lengths) + -sum(lengths) % sequence_size
    padding = total - sum(lengths)
    assert padding > 0
    assert batch.packed.cu_seqlens_q.tolist() == [0, *np.cumsum([*lengths, padding])]
    # its positions start anew, as those of any sequence
    assert batch.position_ids_1T[0].tolist() == [p for n in (*lengths, padding) for p in range(n)]
    assert batch.input_ids_1T[0, -padding:].tolist() == [0] * padding
    assert len(batch.targets_R) == flat_offsets(samples)[-1]
    assert int(batch.rows_R.max()) < sum(lengths)
    assert batch.rows.boundaries_S.tolist() == [0, *np.cumsum([len(samples[i].output_ids) for i in load.indices])]


def test_without_padding_there_is_no_sequence_more() -> None:
    samples = ragged_samples(3)
    [[load]] = plan_loads([s.num_tokens for s in samples], [1.0] * len(samples), 4096, 1)
    batch = build_micro_batch(samples, load, Baselines(), torch.device("cpu"))
    assert len(batch.packed.cu_seqlens_q) == 4


def test_baselines_and_stated_log_probs_stand_at_their_own_tokens_in_every_micro_batch() -> None:
    samples = [
        replace(s, old_logprobs=np.full(len(s.output_ids), -float(i), np.float32) if i % 2 else None)
        for i, s in enumerate(ragged_samples(6))
    ]
    flat = torch.arange(float(flat_offsets(samples)[-1]))
    for plan in plan_loads([s.num_tokens for s in samples], [1.0] * 6, 60, 1):
        for load in plan:
            batch = build_micro_batch(samples, load, Baselines(flat, -flat), torch.device("cpu"))
            assert batch.rows.old_logprobs_R is not None and batch.rows.reference_logprobs_R is not None
            assert batch.rows.old_logprobs_R.tolist() == batch.flat_R.tolist()
            assert batch.rows.reference_logprobs_R.tolist() == [-place for place in batch.flat_R.tolist()]
            if batch.rows.stated_old_logprobs_R is None:
                assert all(i % 2 == 0 for i in load.indices)
                continue
            expected = [-float(i) if i % 2 else np.nan for i in load.indices for _token in samples[i].output_ids]
            assert np.allclose(batch.rows.stated_old_logprobs_R.tolist(), expected, equal_nan=True)


def test_baselines_are_split_by_the_outputs_of_each_update() -> None:
    old = torch.arange(6.0)
    first, second = Baselines(old, -old).split([2, 4])
    assert first.old is not None and first.reference is not None and second.reference is not None
    assert (first.old.tolist(), first.reference.tolist()) == ([0.0, 1.0], [-0.0, -1.0])
    assert second.reference.tolist() == [-2.0, -3.0, -4.0, -5.0]
    assert [part.reference for part in Baselines(old).split([1, 5])] == [None, None]


@pytest.mark.parametrize(
    ("context", "sequence", "each", "total"), [(1, 1, 1, 1), (1, 4, 1, 4), (2, 1, 4, 2), (3, 4, 6, 12)]
)
def test_lengths_are_padded_to_what_the_ranks_that_share_them_can_divide(
    context: int, sequence: int, each: int, total: int
) -> None:
    split = TokenSplit(context_size=context, sequence_size=sequence)
    assert (split.sequence_multiple, split.total_multiple) == (each, total)


def test_a_context_parallel_rank_holds_a_chunk_of_each_sequence_and_its_mirror_image() -> None:
    boundaries = [0, 6, 18]
    assert [chunks(boundaries, 3, rank) for rank in range(3)] == [
        [(0, 0, 1), (0, 5, 6), (6, 6, 8), (6, 16, 18)],
        [(0, 1, 2), (0, 4, 5), (6, 8, 10), (6, 14, 16)],
        [(0, 2, 3), (0, 3, 4), (6, 10, 12), (6, 12, 14)],
    ]
