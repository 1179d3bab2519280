"""EGRC's loss and gradient, from graded groups to d loss / d logits, against float64 written straight from the paper.

The reference knows nothing of batches or token weights as the product has them: it loops over responses and tokens.
"""

import math
import random
from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pytest
import torch
from egrc_kernels.logprob import logprob_entropy

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.policy.loss import LossRows, policy_loss
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import batch_of, make_group, make_sample, same_bits
from egrc_mega.training.batch import decode, encode
from egrc_mega.types import FinishReason, Grade, Group, Sample

VOCABULARY = 17
CLIP = 12


def ragged_groups(seed: int, *, positives: bool = True) -> list[Group]:
    """Groups with 1-token, masked, cut, wrong, malformed and ungraded responses."""
    rng = random.Random(seed)
    groups = []
    for _ in range(3):
        samples = []
        for _ in range(5):
            length = rng.choice([1, 2, 3, 5, 8, 12, 13, 19])
            mask = [0 if length > 2 and t % 3 == 1 else 1 for t in range(length)]
            grade = rng.choice([Grade.RIGHT, Grade.RIGHT, Grade.WRONG, Grade.UNGRADED])
            if not positives and grade is Grade.RIGHT:
                grade = Grade.WRONG
            finish = rng.choice([FinishReason.STOP] * 4 + [FinishReason.LENGTH])
            ids = [rng.randrange(VOCABULARY) for _ in range(length)]
            well_formed = finish is FinishReason.STOP and rng.random() < 0.8
            samples.append(make_sample(ids, grade=grade, finish=finish, sampled=mask, well_formed=well_formed))
        groups.append(make_group(samples))
    return groups


def paper_shape(kind: str, r: float, length: int) -> float:
    x = length / CLIP
    return {
        "exp": r**x,
        "linear": 1 - (1 - r) * x,
        "cosine": r + (1 - r) * (1 + math.cos(math.pi * x)) / 2,
        "none": 1.0,
    }[kind]


def right(sample: Sample) -> bool:
    return sample.grade is Grade.RIGHT and sample.completion.finish_reason is FinishReason.STOP


def compress_advantage(stage: CompressSection) -> Callable[[Sample, Group], float]:
    """Sections 3.3.1 to 3.3.3: R(y) = f(|y|) for a positive within the clip; A = beta R."""

    def advantage(sample: Sample, _group: Group) -> float:
        if not right(sample) or not sample.well_formed or sample.length > CLIP:
            return 0.0
        return stage.beta * paper_shape(stage.shape.kind, stage.shape.r, sample.length)

    return advantage


def explore_advantage(sample: Sample, group: Group) -> float:
    """Section 3.4: (R - mean) / std over the group, R = R_format + R_answer + R_length."""

    def reward(s: Sample) -> float:
        return 0.2 * s.well_formed + right(s) + max(-1.0, -0.25 * max(0, s.length - CLIP) / (CLIP / 4))

    rewards = [reward(s) for s in group.samples if s.grade is not Grade.UNGRADED]
    if sample.grade is Grade.UNGRADED or len(rewards) < 2 or len(set(rewards)) == 1:
        return 0.0
    mu = sum(rewards) / len(rewards)
    sigma = math.sqrt(sum((r - mu) ** 2 for r in rewards) / (len(rewards) - 1))
    return (reward(sample) - mu) / (sigma + 1e-6)


def paper_loss(
    groups: list[Group],
    logits: dict[int, torch.Tensor],
    old: dict[int, torch.Tensor],
    advantage: Callable[[Sample, Group], float],
    stage: StageSection,
) -> torch.Tensor:
    """-(1/N) sum over responses of (1/|o|) sum over the policy's tokens of A log pi, or of the clipped A ratio."""
    terms, count = [], 0
    for group in groups:
        for sample in group.samples:
            if sample.grade is Grade.UNGRADED:
                continue
            count += 1
            a = advantage(sample, group)
            logp = torch.log_softmax(logits[id(sample)] / stage.rollout.temperature, -1)
            own = [t for t, chosen in enumerate(sample.completion.sampled) if chosen]
            for t in own:
                lp = logp[t, sample.completion.output_ids[t]]
                if stage.loss.ratio == "none":
                    value = a * lp
                else:
                    ratio = (lp - old[id(sample)][t]).exp()
                    clipped = ratio.clamp(1 - stage.loss.eps_clip, 1 + stage.loss.eps_clip_high)
                    value = torch.minimum(a * ratio, a * clipped)
                terms.append(value / len(own))
    return -torch.stack(terms).sum() / count


def product_loss(
    groups: list[Group], logits: dict[int, torch.Tensor], old: dict[int, torch.Tensor] | None, stage: StageSection
) -> torch.Tensor | None:
    """The product's way: advantages, token weights, through the wire, then the op and the loss on flat rows."""
    batch = decode(encode(batch_of(groups, stage)))
    assert len(batch.updates) <= 1
    if not batch.updates:
        return None
    by_ids = {tuple(s.completion.output_ids): s for group in groups for s in group.samples}
    samples = [by_ids[tuple(s.output_ids.tolist())] for s in batch.updates[0]]
    rows = torch.cat([logits[id(s)] for s in samples])
    targets = torch.tensor([i for s in samples for i in s.completion.output_ids]).long()
    logprob, _entropy, _one = logprob_entropy(rows, targets, temperature=stage.rollout.temperature)
    flat_old = None if old is None else torch.cat([old[id(s)] for s in samples]).float()
    sizes = [len(s.output_ids) for s in batch.updates[0]]
    rows = LossRows(
        advantages_R=torch.from_numpy(np.concatenate([s.advantages for s in batch.updates[0]])),
        weights_R=torch.from_numpy(np.concatenate([s.loss_weights for s in batch.updates[0]])),
        boundaries_S=torch.tensor([0, *accumulate(sizes)], dtype=torch.int32),
        rollout_logprobs_R=torch.full((sum(sizes),), torch.nan),
        old_logprobs_R=flat_old,
    )
    return policy_loss(logprob, rows, stage.loss).loss


def assert_same_loss_and_gradient(groups: list[Group], stage: StageSection, advantage, *, off_policy: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    samples = [s for group in groups for s in group.samples]
    exact = {id(s): torch.randn(s.length, VOCABULARY, generator=generator).double().requires_grad_() for s in samples}
    single = {key: value.detach().float().requires_grad_() for key, value in exact.items()}
    old = {}
    for s in samples:
        logp = torch.log_softmax(exact[id(s)].detach() / stage.rollout.temperature, -1)
        chosen = logp.gather(1, torch.tensor(s.completion.output_ids)[:, None])[:, 0]
        # far enough apart that some tokens are clipped on either side
        old[id(s)] = chosen + (0.4 * torch.randn(s.length, generator=generator).double() if off_policy else 0.0)
    expected = paper_loss(groups, exact, old, advantage, stage)
    expected.backward()
    found = product_loss(groups, single, old if off_policy else None, stage)
    if found is None:
        assert all(float(x.grad.abs().max()) == 0 for x in exact.values() if x.grad is not None)
        return
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    for key, value in exact.items():
        gradient = single[key].grad if single[key].grad is not None else torch.zeros_like(single[key])
        reference = value.grad if value.grad is not None else torch.zeros_like(value)
        torch.testing.assert_close(gradient.double(), reference, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["exp", "linear", "cosine", "none"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_compress_matches_the_paper(kind: str, temperature: float) -> None:
    stage = CompressSection(
        clip_len=CLIP, beta=1.5, shape={"kind": kind, "r": 0.1}, rollout={"temperature": temperature}
    )
    assert_same_loss_and_gradient(ragged_groups(1), stage, compress_advantage(stage), off_policy=False)


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.2])
def test_explore_matches_the_paper(off_policy: bool, temperature: float) -> None:
    stage = ExploreSection(clip_len=CLIP, rollout={"temperature": temperature})
    assert_same_loss_and_gradient(ragged_groups(2), stage, explore_advantage, off_policy=off_policy)


def test_a_batch_without_a_positive_sample_trains_on_nothing() -> None:
    stage = CompressSection(clip_len=CLIP)
    groups = ragged_groups(3, positives=False)
    batch = batch_of(groups, stage)
    assert batch.updates == ()
    assert len(batch.dropped) == 15
    assert_same_loss_and_gradient(groups, stage, compress_advantage(stage), off_policy=False)


def test_the_kept_denominator_divides_by_the_kept_responses_only() -> None:
    groups = ragged_groups(1)
    everything = CompressSection(clip_len=CLIP)
    kept = CompressSection(clip_len=CLIP, loss={"denominator": "kept"})
    graded = sum(s.grade is not Grade.UNGRADED for group in groups for s in group.samples)
    one = batch_of(groups, everything).updates[0]
    other = batch_of(groups, kept).updates[0]
    for a, b in zip(one, other, strict=True):
        assert [w * graded for w in a.loss_weights] == pytest.approx([w * len(one) for w in b.loss_weights])


def test_token_mean_weighs_every_token_of_the_policy_alike() -> None:
    stage = CompressSection(clip_len=CLIP, loss={"agg": "token-mean"})
    groups = ragged_groups(1)
    graded = [s for group in groups for s in group.samples if s.grade is not Grade.UNGRADED]
    num_tokens = sum(sum(s.completion.sampled) for s in graded)
    for sample in batch_of(groups, stage).updates[0]:
        assert sample.loss_weights == pytest.approx([sampled / num_tokens for sampled in sample.sampled])


def test_several_updates_split_whole_groups_and_each_normalises_itself() -> None:
    stage = ExploreSection(clip_len=CLIP, optim={"num_updates_per_rollout": 2})
    groups = ragged_groups(2)
    batch = batch_of(groups, stage)
    assert len(batch.updates) == 2
    lone = batch_of(groups[1:2], ExploreSection(clip_len=CLIP))
    assert all(same_bits(a, b) for a, b in zip(batch.updates[1], lone.updates[0], strict=True))


def test_log_probs_of_another_weight_version_are_not_compared() -> None:
    stage = ExploreSection(clip_len=CLIP)
    group = make_group([make_sample([1, 2, 3], sampled=[1, 0, 1]), make_sample([4], grade=Grade.WRONG, version="v7")])
    first, second = batch_of([group], stage).updates[0]
    assert np.isnan(first.rollout_logprobs).tolist() == [False, True, False]
    assert (first.compared.tolist(), second.compared.tolist()) == ([True, False, True], [False])
    # but they are what importance sampling weighs by
    assert second.rollout_logprobs.tolist() == list(group.samples[1].completion.logprobs)
