"""Samples made by hand: graded ones for tests of methods and batches, and what a policy trains on."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from egrc_mega.methods.method import Method, build_method
from egrc_mega.methods.records import View
from egrc_mega.sampling_mask import SamplingMask
from egrc_mega.sections.stage import StageSection
from egrc_mega.training.batch import Batch, build_batch
from egrc_mega.types import (
    Ask,
    Completion,
    FinishReason,
    Grade,
    Group,
    Problem,
    Sample,
    TrainSample,
    VersionSpan,
    token_array,
)

PROBLEM = Problem(key="test:1", text="9 a + 1 = ?", answer="0")
PROMPT_IDS = token_array([1, 12, 13, 20, 4, 23, 25, 26])


def make_sample(
    output_ids: Sequence[int],
    *,
    grade: Grade = Grade.RIGHT,
    well_formed: bool = True,
    finish: FinishReason = FinishReason.STOP,
    sampled: Sequence[int] | None = None,
    num_forced: int = 0,
    ask: Ask | None = None,
    problem: Problem = PROBLEM,
    version: str = "v0",
    reason: str = "",
) -> Sample:
    """A sample with log-prob -1 on every token that the policy sampled."""
    ids = token_array(list(output_ids))
    chosen = np.ones(len(ids), np.bool_) if sampled is None else np.asarray(sampled, np.bool_)
    chosen[:num_forced] = False
    completion = Completion(
        rid="test",
        output_ids=ids,
        logprobs=np.where(chosen, np.float32(-1.0), np.float32(0.0)),
        sampled=chosen,
        finish_reason=finish,
        weight_versions=(VersionSpan(version=version, start=num_forced, end=len(ids)),),
    )
    return Sample(
        problem=problem,
        ask=ask or Ask(),
        prompt_ids=PROMPT_IDS,
        completion=completion,
        text="",
        grade=grade,
        reason=reason,
        well_formed=well_formed,
        num_forced=num_forced,
    )


def make_group(samples: Sequence[Sample]) -> Group:
    """A group of samples."""
    return Group(problem=samples[0].problem, samples=tuple(samples))


def make_lettered(responses: str, problem: Problem = PROBLEM) -> Group:
    """A group from letters and lengths: `R200 W30 U9 T800` is right, wrong, ungraded, and right but cut off."""
    return make_group([_lettered(word[0], int(word[1:]), problem) for word in responses.split()])


def _lettered(letter: str, length: int, problem: Problem) -> Sample:
    grade = {"R": Grade.RIGHT, "T": Grade.RIGHT, "W": Grade.WRONG, "U": Grade.UNGRADED}[letter]
    finish = FinishReason.LENGTH if letter == "T" else FinishReason.STOP
    return make_sample(range(length), grade=grade, well_formed=letter != "T", finish=finish, problem=problem)


def view_of(method: Method[Any, Any], step: int = 0) -> View:
    """The view of a stage that has just begun, or of a later step with the state of the begin."""
    return View(step=step, state=method.State(), seed=1)


def batch_of(groups: Sequence[Group], section: StageSection, version: str = "v0") -> Batch:
    """The batch that a stage makes of groups."""
    method = build_method(section)
    return build_batch(groups, method.credit(groups, view_of(method)), section, version)


def make_train_sample(
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    sampled: Sequence[int] | None = None,
    loss_weights: Sequence[float] | float = 0.0,
    advantages: Sequence[float] | float = 0.0,
    rollout_logprobs: Sequence[float] | float = 0.0,
    compared: Sequence[int] | int = 0,
    old_logprobs: Sequence[float] | None = None,
    masks: Sequence[Sequence[int]] | None = None,
) -> TrainSample:
    """A record of what the policy trains on; one number stands for one at every token."""

    def per_token(values: Sequence[float] | float, dtype: type) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype), (len(output_ids),)).copy()

    return TrainSample(
        prompt_ids=np.asarray(prompt_ids, np.int32),
        output_ids=np.asarray(output_ids, np.int32),
        sampled=per_token(1 if sampled is None else sampled, np.bool_),
        loss_weights=per_token(loss_weights, np.float32),
        advantages=per_token(advantages, np.float32),
        rollout_logprobs=per_token(rollout_logprobs, np.float32),
        compared=per_token(compared, np.bool_),
        old_logprobs=None if old_logprobs is None else per_token(old_logprobs, np.float32),
        sampling_mask=None if masks is None else make_mask(masks),
    )


def make_mask(masks: Sequence[Sequence[int]]) -> SamplingMask:
    """What each token was drawn from, a list of ids for each."""
    ids = [token for mask in masks for token in mask]
    return SamplingMask(np.array(ids, np.int32), np.array([len(mask) for mask in masks], np.int32))


def masks_in(mask: SamplingMask | None) -> list[list[int]] | None:
    """The list of ids for each token that `make_mask` was given."""
    return None if mask is None else [part.token_ids.tolist() for part in mask.split([1] * len(mask.counts))]


def same_bits(a: TrainSample, b: TrainSample) -> bool:
    """Whether every array of the two has the same dtype and the same bits, NaN included, and the masks are equal."""
    nothing: list[list[int]] = [[]] * len(a.output_ids)  # as good as no mask
    if (masks_in(a.sampling_mask) or nothing) != (masks_in(b.sampling_mask) or nothing):
        return False
    names = [field.name for field in fields(TrainSample) if field.name != "sampling_mask"]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return all(
        (x is None and y is None)
        or (x is not None and y is not None and x.dtype == y.dtype and x.tobytes() == y.tobytes())
        for x, y in pairs
    )


def contents(completions: Sequence[Completion]) -> list[tuple[Any, ...]]:
    """Everything in completions, in a form that `==` compares: arrays as bytes, so log-probs bit by bit."""
    return [
        (
            completion.rid,
            completion.output_ids.tolist(),
            completion.logprobs.tobytes(),
            completion.sampled.tolist(),
            masks_in(completion.sampling_mask),
            completion.finish_reason,
            completion.weight_versions,
        )
        for completion in completions
    ]
