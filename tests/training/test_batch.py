"""A batch as arrays: what the builder writes into them, and that every bit of them arrives at the other ranks."""

from dataclasses import fields, replace

import numpy as np
import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.records import Credit, Edit
from egrc_mega.testing.policy_worker import masked_samples, ragged_samples
from egrc_mega.testing.samples import (
    batch_of,
    make_group,
    make_mask,
    make_sample,
    make_train_sample,
    masks_in,
    same_bits,
)
from egrc_mega.training.batch import Batch, build_batch, decode, encode
from egrc_mega.types import Grade, TrainSample


def stated(place: int) -> TrainSample:
    """A sample with a forced first token and values of every kind."""
    return make_train_sample(
        (1, 2, place),
        (7, 8, 9),
        sampled=(0, 1, 1),
        loss_weights=(0.1, 0.2, 0.0),
        advantages=(1.0, -2.5, 1 / 3),
        rollout_logprobs=(float("nan"), -0.5, -1e-30),
        compared=(0, 1, 0),
        old_logprobs=(-0.7, float("nan"), float("nan")),
    )


@pytest.mark.parametrize(
    "batch",
    [
        Batch((tuple(ragged_samples(5)), (stated(3), *ragged_samples(2, seed=1), stated(4))), (stated(5),)),
        Batch((), tuple(ragged_samples(3))),
        Batch((tuple(ragged_samples(4)),), ()),
        Batch((tuple(masked_samples()[:4]), tuple(masked_samples()[4:7])), tuple(masked_samples()[7:])),
    ],
    ids=["two updates, some state old log-probs", "only dropped", "nothing dropped", "some have masks"],
)
def test_every_bit_of_a_batch_arrives_in_its_place(batch: Batch) -> None:
    arrived = decode(encode(batch))
    assert [len(update) for update in arrived.updates] == [len(update) for update in batch.updates]
    pairs = [(batch.dropped, arrived.dropped), *zip(batch.updates, arrived.updates, strict=True)]
    for sent, found in pairs:
        assert all(same_bits(a, b) for a, b in zip(sent, found, strict=True))


def test_decoding_copies_no_sample() -> None:
    batch = decode(encode(Batch((tuple(ragged_samples(3)),), ())))
    for field in fields(TrainSample):
        arrays = [getattr(sample, field.name) for sample in batch.updates[0]]
        if field.name not in ("old_logprobs", "sampling_mask"):
            assert len({id(array.base) for array in arrays}) == 1, field.name


def test_a_built_sample_has_one_value_of_each_kind_a_token() -> None:
    stage = CompressSection(clip_len=100, beta=1.5, shape={"kind": "none"})
    right, wrong = make_sample([5, 6, 7, 8], sampled=[1, 0, 1, 1]), make_sample([9], grade=Grade.WRONG)
    batch = batch_of([make_group([right, wrong])], stage)
    [[kept]], [dropped] = batch.updates, batch.dropped
    third = np.float32(1 / (3 * 2))  # two graded rollouts, three tokens that the policy chose
    expected = make_train_sample(
        right.prompt_ids,
        (5, 6, 7, 8),
        sampled=(1, 0, 1, 1),
        loss_weights=(third, 0.0, third, third),
        advantages=1.5,
        rollout_logprobs=(-1.0, float("nan"), -1.0, -1.0),
        compared=(1, 0, 1, 1),
    )
    assert same_bits(kept, expected)
    assert dropped.advantages.tolist() == [0.0]


def mixed(num_right: int, term: str) -> Batch:
    """Five samples, so many of them kept, under a term that holds all and means over the kept ones."""
    samples = [make_sample([5] * (n + 2), grade=Grade.RIGHT if n < num_right else Grade.WRONG) for n in range(5)]
    loss = {term: 0.1, "denominator": "kept"}
    return batch_of([make_group(samples)], CompressSection(clip_len=100, loss=loss))


@pytest.mark.parametrize("term", ["kl_coef", "entropy_coef"])
def test_kl_and_entropy_are_means_over_every_graded_response_whatever_is_kept(term: str) -> None:
    for num_right in range(6):
        [update] = mixed(num_right, term).updates
        assert len(update) == 5
        for sample in update:
            assert float(sample.loss_weights.sum()) == pytest.approx(1 / 5), num_right


@pytest.mark.parametrize("agg", ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"])
def test_a_kl_term_changes_nothing_of_what_the_advantages_weigh(agg: str) -> None:
    samples = [make_sample([5] * (n + 2), grade=Grade.RIGHT if n < 2 else Grade.WRONG) for n in range(5)]
    group = make_group([*samples, make_sample([6], grade=Grade.UNGRADED)])

    def pulls(**loss: object) -> list[np.ndarray]:
        section = CompressSection(clip_len=100, loss={"agg": agg, "denominator": "kept", **loss})
        [update] = batch_of([group], section).updates
        return [sample.loss_weights * sample.advantages for sample in update if sample.advantages.any()]

    assert len(pulls()) == 2  # of five graded ones
    for with_kl, without in zip(pulls(kl_coef=0.1), pulls(), strict=True):
        assert with_kl == pytest.approx(without, rel=1e-6)


def test_what_a_token_was_drawn_from_goes_with_it_and_an_edits_tokens_count_as_drawn_from_all() -> None:
    stage = CompressSection(clip_len=100, shape={"kind": "none"})
    sample = make_sample([5, 6, 7, 8])
    sample = replace(sample, completion=replace(sample.completion, sampling_mask=make_mask([[5, 1], [6], [7, 2], [8]])))
    [[kept]] = batch_of([make_group([sample])], stage).updates
    assert masks_in(kept.sampling_mask) == [[5, 1], [6], [7, 2], [8]]
    credit = Credit(advantage=1.0, kept=True, edit=Edit(output_ids=np.array([5, 6, 9], np.int32), first_changed=2))
    [[edited]] = build_batch([make_group([sample])], [[credit]], stage, "v0").updates
    assert edited.output_ids.tolist() == [5, 6, 9]
    assert masks_in(edited.sampling_mask) == [[5, 1], [6], []]
