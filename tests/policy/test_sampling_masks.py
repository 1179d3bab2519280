"""Tokens that were drawn from a part of the vocabulary: their log-probs, ratios and gradients are among that part."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egrc_mega.errors import PolicyError
from egrc_mega.policy import engine
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.masks import masks_of
from egrc_mega.policy.packing import Baselines
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import masked_samples, ragged_samples
from egrc_mega.testing.samples import make_mask, make_train_sample, masks_in
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import TrainSample

pytestmark = pytest.mark.usefixtures("world_of_one")
CPU = torch.device("cpu")
TEMPERATURE, VOCABULARY = 0.7, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"), vocab_size=41)


def build(folder: Path, **section: Any) -> Policy:
    return Policy(folder, MegatronSection(), PolicySection(max_tokens_per_micro_batch=60, **section))


def all_masked() -> list[TrainSample]:
    """Every output token was drawn from a part of the vocabulary."""
    rng = np.random.default_rng(5)

    def around(token: int) -> list[int]:
        return [token, *rng.choice(np.delete(np.arange(VOCABULARY), token), rng.integers(1, 9), replace=False)]

    return [replace(s, sampling_mask=make_mask([around(t) for t in s.output_ids.tolist()])) for s in ragged_samples()]


def gradients_of(policy: Policy, samples: list[TrainSample], loss: LossSection) -> tuple[dict, TokenStats]:
    found: dict[str, torch.Tensor] = {}

    def note(_stats: object) -> None:
        found.update({name: p.main_grad.clone() for name, p in policy.pieces[0].named_parameters()})

    old = policy.score(samples, TEMPERATURE).logprobs + 0.05
    result = policy.update(samples, TEMPERATURE, loss, 1e-3, Baselines(old=old, reference=old - 0.1), note)
    return found, result.stats


@pytest.mark.parametrize("fused", [False, True])
def test_log_probs_are_transformers_among_the_mask_and_entropies_those_of_the_whole_vocabulary(
    folder: Path, fused: bool
) -> None:
    from transformers import AutoModelForCausalLM

    samples = masked_samples()
    stats = build(folder, fused_output_layer=fused).score(samples, TEMPERATURE)
    model, start = AutoModelForCausalLM.from_pretrained(folder), 0
    for sample in samples:
        with torch.no_grad():
            logits = model(torch.tensor([[*sample.prompt_ids, *sample.output_ids]])).logits[0]
        rows = logits[len(sample.prompt_ids) - 1 : -1].double() / TEMPERATURE
        masks = masks_in(sample.sampling_mask) or [[]] * len(rows)
        for i, (row, mask, token) in enumerate(zip(rows, masks, sample.output_ids.tolist(), strict=True)):
            among = mask or list(range(41))
            expected = torch.log_softmax(row[among], 0)[among.index(token)]
            torch.testing.assert_close(stats.logprobs[start + i].double(), expected, rtol=0, atol=1e-5)
        start += len(rows)
    plain = build(folder).score(ragged_samples(), TEMPERATURE)
    torch.testing.assert_close(stats.entropies, plain.entropies)
    torch.testing.assert_close(stats.entropies_rollout, plain.entropies_rollout)


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_a_mask_of_the_whole_vocabulary_trains_as_none_does(folder: Path, entropy_coef: float) -> None:
    loss = LossSection(ratio="token", kl_coef=0.1, entropy_coef=entropy_coef)
    whole = [replace(s, sampling_mask=make_mask([list(range(41))] * len(s.output_ids))) for s in ragged_samples()]
    masked, stats = gradients_of(build(folder), whole, loss)
    plain, expected = gradients_of(build(folder), ragged_samples(), loss)
    torch.testing.assert_close(stats.logprobs, expected.logprobs)
    for name, gradient in plain.items():
        torch.testing.assert_close(masked[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_tokens_with_and_without_masks_are_trained_together(folder: Path) -> None:
    def whole_for_none(sample: TrainSample) -> TrainSample:
        masks = masks_in(sample.sampling_mask) or [[]] * len(sample.output_ids)
        return replace(sample, sampling_mask=make_mask([mask or list(range(41)) for mask in masks]))

    loss = LossSection(ratio="token", tis_cap=2.0)
    mixed, stats = gradients_of(build(folder), masked_samples(), loss)
    masked, expected = gradients_of(build(folder), [whole_for_none(sample) for sample in masked_samples()], loss)
    torch.testing.assert_close(stats.logprobs, expected.logprobs)
    for name, gradient in masked.items():
        torch.testing.assert_close(mixed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_leaving_out_the_vocabulary_where_every_token_has_a_mask_changes_no_gradient(
    folder: Path, entropy_coef: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LossSection(ratio="token", tis_cap=2.0, entropy_coef=entropy_coef)
    quick, _stats = gradients_of(build(folder), all_masked(), loss)
    plain, _stats = gradients_of(build(folder), ragged_samples(), loss)
    monkeypatch.setattr(engine, "build_micro_batch", _claiming_nothing)
    slow, _stats = gradients_of(build(folder), all_masked(), loss)
    for name, gradient in slow.items():
        assert float(gradient.abs().max()) > 0, name
        torch.testing.assert_close(quick[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
        assert not torch.allclose(gradient, plain[name], rtol=1e-3), name


def _claiming_nothing(*arguments: Any, **options: Any) -> Any:
    from egrc_mega.policy.packing import build_micro_batch

    batch = build_micro_batch(*arguments, **options)
    return replace(batch, masks=replace(batch.masks, covers_all=False))


def test_gradients_are_never_made_in_forward_for_tokens_with_masks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = LossSection(ratio="token", tis_cap=2.0)
    expected, _stats = gradients_of(build(folder), masked_samples(), loss)
    monkeypatch.setattr(engine, "takes_gradient_in_forward", lambda *_: True)
    found, _stats = gradients_of(build(folder), masked_samples(), loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_the_masks_of_a_micro_batch_say_which_pair_was_drawn() -> None:
    samples = [
        make_train_sample([1], [7, 8, 9], masks=[[3, 7], [], [9]]),
        make_train_sample([1, 2], [4]),
        make_train_sample([1], [5], masks=[[6, 4, 5]]),
    ]
    masks = masks_of(samples, np.array([7, 8, 9, 4, 5]), np.ones(5, np.bool_), CPU)
    assert masks is not None and not masks.covers_all
    assert masks.rows_K.tolist() == [0, 0, 2, 4, 4, 4]
    assert masks.tokens_K.tolist() == [3, 7, 9, 6, 4, 5]
    assert masks.boundaries_T1.tolist() == [0, 2, 2, 3, 3, 6]
    assert masks.has_mask_T.tolist() == [True, False, True, False, True]
    assert [masks.targets_T[row].item() for row in (0, 2, 4)] == [1, 2, 5]
    # of which only the last three rows are here
    here = np.array([False, False, True, True, True])
    part = masks_of(samples, np.array([9, 4, 5]), here, CPU)
    assert part is not None and part.boundaries_T1.tolist() == [0, 1, 1, 4] and part.tokens_K.tolist() == [9, 6, 4, 5]
    assert masks_of(samples[:1] + samples[2:], np.array([9, 5]), np.array([False, False, True, True]), CPU).covers_all
    assert masks_of(samples[1:2], np.array([4]), np.ones(1, np.bool_), CPU) is None


@pytest.mark.parametrize("masks", [[[3, 6], [8]], [[7, 7], [8]], [[7, 7], [9]]])
def test_a_mask_of_another_token_is_refused(masks: list[list[int]]) -> None:
    with pytest.raises(PolicyError, match="a token does not stand once in its own sampling mask"):
        masks_of([make_train_sample([1], [7, 8], masks=masks)], np.array([7, 8]), np.ones(2, np.bool_), CPU)
