"""Which samples a batch trains, with what weights, advantages and log-probs: KL, ungraded, edits, forced tokens."""

from dataclasses import replace

import numpy as np
import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.records import DROPPED, Credit, Edit
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.training.batch import Batch, build_batch, scored_only
from egrc_mega.types import Grade, Sample, TrainSample, VersionSpan

NAN = float("nan")
UNGRADED = make_sample([9, 9], grade=Grade.UNGRADED)


def built(samples: list[Sample], credits: list[Credit], **section: object) -> Batch:
    """One group's batch."""
    return build_batch([make_group(samples)], [credits], ExploreSection(**section), "v0")


def ids(samples: tuple[TrainSample, ...]) -> list[list[int]]:
    return [sample.output_ids.tolist() for sample in samples]


def only(batch: Batch) -> TrainSample:
    [[sample]] = batch.updates
    return sample


# what is trained


def test_without_a_kl_term_only_what_is_kept_is_trained_and_n_counts_all_graded() -> None:
    batch = built([make_sample([1, 2]), make_sample([3]), UNGRADED], [Credit(advantage=2.0), DROPPED, DROPPED])
    assert (ids(batch.updates[0]), ids(batch.dropped)) == ([[1, 2]], [[3], [9, 9]])
    assert only(batch).loss_weights.tolist() == [0.25, 0.25]


@pytest.mark.parametrize("term", ["kl_coef", "entropy_coef"])
def test_under_a_kl_or_entropy_term_every_graded_sample_is_held_and_what_is_ungraded_never(term: str) -> None:
    samples = [make_sample([1, 2]), make_sample([3]), UNGRADED]
    credits = [Credit(advantage=2.0), Credit(advantage=5.0, kept=False), DROPPED]
    batch = built(samples, credits, loss={term: 0.1})
    assert (ids(batch.updates[0]), ids(batch.dropped)) == ([[1, 2], [3]], [[9, 9]])
    first, second = batch.updates[0]
    assert (first.loss_weights.tolist(), second.loss_weights.tolist()) == ([0.25, 0.25], [0.5])
    # it is held, and not taught: a dropped sample's advantage counts for nothing
    assert (first.advantages.tolist(), second.advantages.tolist()) == ([2.0, 2.0], [0.0])


def test_under_a_kl_term_a_batch_without_any_advantage_is_trained_on() -> None:
    batch = built([make_sample([1]), make_sample([3])], [DROPPED, DROPPED], loss={"kl_coef": 0.1})
    assert ids(batch.updates[0]) == [[1], [3]]
    assert not any(sample.advantages.any() for sample in batch.updates[0])


def test_under_a_kl_term_what_weighs_nothing_is_not_held() -> None:
    masked = make_sample([4, 5], sampled=[0, 0])
    batch = built([make_sample([1]), masked], [DROPPED, DROPPED], loss={"kl_coef": 0.1})
    assert (ids(batch.updates[0]), ids(batch.dropped)) == ([[1]], [[4, 5]])


def test_an_ungraded_sample_has_no_weight_no_advantage_and_is_still_compared() -> None:
    for batch in (
        built([make_sample([1]), UNGRADED], [Credit(), DROPPED]),
        scored_only([make_group([UNGRADED])], "v0"),
    ):
        [dropped] = batch.dropped
        assert dropped.loss_weights.tolist() == dropped.advantages.tolist() == [0.0, 0.0]
        assert dropped.compared.tolist() == [True, True]


def test_a_dropped_sample_teaches_nothing_even_where_the_method_left_an_advantage() -> None:
    batch = built([make_sample([1]), make_sample([2])], [Credit(advantage=3.0, kept=False), Credit(advantage=1.0)])
    assert [sample.advantages.tolist() for sample in batch.dropped] == [[0.0]]


def test_groups_are_dealt_in_turn_over_the_updates_and_each_update_is_a_mean_of_its_own() -> None:
    stage = CompressSection(optim={"num_updates_per_rollout": 2})
    groups = [make_group([make_sample([10 * g + s]) for s in range(2)]) for g in range(5)]
    credits = [[Credit(advantage=1.0), DROPPED] for _ in groups]
    batch = build_batch(groups, credits, stage, "v0")
    assert [ids(update) for update in batch.updates] == [[[0], [20], [40]], [[10], [30]]]
    assert ids(batch.dropped) == [[1], [21], [41], [11], [31]]
    assert [{float(s.loss_weights[0]) for s in update} for update in batch.updates] == [
        {float(np.float32(1 / 6))},
        {0.25},
    ]


def test_an_update_in_which_nothing_is_kept_is_left_out() -> None:
    stage = CompressSection(optim={"num_updates_per_rollout": 3})
    groups = [make_group([make_sample([g])]) for g in range(3)]
    batch = build_batch(groups, [[Credit(advantage=1.0)], [DROPPED], [Credit(advantage=1.0)]], stage, "v0")
    assert [ids(update) for update in batch.updates] == [[[0]], [[2]]]


def test_what_is_scored_only_is_everything_in_order() -> None:
    groups = [make_group([make_sample([1, 2]), UNGRADED]), make_group([make_sample([3])])]
    batch = scored_only(groups, "v0")
    assert (batch.updates, ids(batch.dropped)) == ((), [[1, 2], [9, 9], [3]])
    assert not any(sample.loss_weights.any() for sample in batch.dropped)


# what each token has


def test_one_advantage_is_spread_and_one_for_each_token_is_taken_as_it_is() -> None:
    assert only(built([make_sample([1, 2, 3])], [Credit(advantage=-0.5)])).advantages.tolist() == [-0.5] * 3
    each = np.array([0.5, 0.0, -1.0])
    assert only(built([make_sample([1, 2, 3])], [Credit(advantage=each)])).advantages.tolist() == each.tolist()


def test_only_the_policys_tokens_of_the_present_version_are_compared() -> None:
    sample = make_sample([1, 2, 3, 4, 5], sampled=[1, 1, 0, 1, 1])
    versions = (("v7", 0, 1), ("v8", 1, 4), ("v9", 4, 5))
    spans = tuple(VersionSpan(version=name, start=start, end=end) for name, start, end in versions)
    sample = replace(sample, completion=replace(sample.completion, weight_versions=spans))
    expected = {
        "v7": [True, False, False, False, False],
        "v8": [False, True, False, True, False],
        "v9": [False, False, False, False, True],
        "v10": [False] * 5,
    }
    for version, compared in expected.items():
        [dropped] = build_batch([make_group([sample])], [[DROPPED]], ExploreSection(), version).dropped
        assert dropped.compared.tolist() == compared
        assert np.isnan(dropped.rollout_logprobs).tolist() == [False, False, True, False, False]


def test_tokens_that_look_back_at_what_older_weights_have_cached_are_not_compared() -> None:
    sample = make_sample([1, 2, 3, 4])
    spans = (VersionSpan(version="v8", start=0, end=2), VersionSpan(version="v8", start=2, end=4, pure=False))
    sample = replace(sample, completion=replace(sample.completion, weight_versions=spans))
    [dropped] = scored_only([make_group([sample])], "v8").dropped
    assert dropped.compared.tolist() == [True, True, False, False]
    # what the server says of them is what they were drawn with, and so counts in every ratio
    assert not np.isnan(dropped.rollout_logprobs).any()


def test_a_forced_token_is_trained_only_where_its_log_prob_is_stated() -> None:
    sample = make_sample([1, 2, 3], num_forced=1)
    plain = only(built([sample], [Credit(advantage=1.0)]))
    assert plain.loss_weights.tolist() == [0.0, 0.5, 0.5]
    assert plain.old_logprobs is None
    stated = only(built([sample], [Credit(advantage=1.0, forced_logprob=-0.75)]))
    assert stated.loss_weights.tolist() == [np.float32(1 / 3)] * 3
    assert stated.old_logprobs is not None
    assert stated.old_logprobs.tolist() == pytest.approx([-0.75, NAN, NAN], nan_ok=True)
    assert stated.sampled.tolist() == stated.compared.tolist() == [False, True, True]
    # what an environment wrote is trained in no case
    mixed = make_sample([1, 2, 3, 4], sampled=[0, 1, 0, 1], num_forced=1)
    assert only(built([mixed], [Credit(advantage=1.0, forced_logprob=-0.75)])).loss_weights.tolist() == [
        np.float32(1 / 3),
        np.float32(1 / 3),
        0.0,
        np.float32(1 / 3),
    ]
    unforced = only(built([make_sample([1, 2])], [Credit(advantage=1.0, forced_logprob=-0.75)]))
    assert unforced.old_logprobs is None


def test_classes_weigh_as_the_loss_says() -> None:
    credit = Credit(advantage=1.0, token_class=np.array([1, 0, 0]))
    found = only(built([make_sample([1, 2, 3])], [credit], loss={"class_weights": (1.0, 3.0)}))
    assert found.loss_weights.tolist() == [3.0, 0.5, 0.5]


# edits


def cropped(output_ids: list[int], first_changed: int, **fields: object) -> TrainSample:
    """Of a response 1 2 3 4 whose second token the environment wrote."""
    sample = make_sample([1, 2, 3, 4], sampled=[1, 0, 1, 1])
    edit = Edit(output_ids=np.array(output_ids), first_changed=first_changed)
    return only(built([sample], [Credit(edit=edit, **({"advantage": 1.0} | fields))]))


def test_a_cropped_response_is_trained_as_it_stands_after_the_edit() -> None:
    found = cropped([1, 2, 8], 2)
    assert found.output_ids.dtype == np.int32
    assert found.output_ids.tolist() == [1, 2, 8]
    # what the edit put there counts as the policy's own; no server has ever said anything of it
    assert found.sampled.tolist() == [True, False, True]
    assert found.loss_weights.tolist() == [0.5, 0.0, 0.5]
    assert found.rollout_logprobs.tolist() == pytest.approx([-1.0, NAN, NAN], nan_ok=True)
    assert found.compared.tolist() == [True, False, False]
    assert found.advantages.tolist() == [1.0] * 3


def test_an_edit_may_make_a_response_longer_and_its_advantages_are_of_the_edited_one() -> None:
    advantage = np.array([0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
    found = cropped([1, 2, 3, 7, 7, 7], 3, advantage=advantage)
    assert found.sampled.tolist() == [True, False, True, True, True, True]
    assert found.rollout_logprobs.tolist() == pytest.approx([-1.0, NAN, -1.0, NAN, NAN, NAN], nan_ok=True)
    assert found.advantages.tolist() == advantage.tolist()
    assert found.loss_weights.tolist() == [np.float32(v) for v in (0.2, 0.0, 0.2, 0.2, 0.2, 0.2)]


def test_an_edit_from_the_first_token_on_leaves_nothing_of_the_servers() -> None:
    found = cropped([7, 7], 0)
    assert (found.sampled.tolist(), found.compared.tolist()) == ([True, True], [False, False])
    assert np.isnan(found.rollout_logprobs).all()


def test_a_mere_crop_keeps_all_that_the_server_said() -> None:
    found = cropped([1, 2], 2)
    assert (found.sampled.tolist(), found.compared.tolist()) == ([True, False], [True, False])
    assert found.loss_weights.tolist() == [1.0, 0.0]
