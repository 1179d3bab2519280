"""Samples made by hand: graded ones for tests of methods and batches, and what a policy trains on."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from egrc_mega.types import (
    Completion,
    FinishReason,
    Grade,
    Group,
    Prompt,
    Sample,
    TrainSample,
    VersionSpan,
    token_array,
)

PROMPT_IDS = token_array([1, 12, 13, 20, 4, 23, 25, 26])
PROMPT = Prompt(id="test:1", text="9 a + 1 = ?", token_ids=PROMPT_IDS, answer="0")


def make_sample(
    output_ids: Sequence[int],
    *,
    grade: Grade = Grade.RIGHT,
    well_formed: bool = True,
    finish: FinishReason = FinishReason.STOP,
    mask: Sequence[int] | None = None,
    version: str = "v0",
) -> Sample:
    """A sample with log-prob -1 on every token that the policy sampled: where `mask` is 1."""
    sampled = np.ones(len(output_ids), bool) if mask is None else np.array(mask, bool)
    completion = Completion(
        rid="test",
        output_ids=token_array(output_ids),
        logprobs=np.where(sampled, -1.0, 0.0).astype(np.float32),
        sampled=sampled,
        finish_reason=finish,
        weight_versions=(VersionSpan(version=version, start=0, end=len(output_ids)),),
    )
    return Sample(prompt=PROMPT, completion=completion, text="", grade=grade, well_formed=well_formed)


def make_group(samples: Sequence[Sample]) -> Group:
    """A group of samples."""
    return Group(prompt=PROMPT, samples=tuple(samples))


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
    )


def same_bits(a: TrainSample, b: TrainSample) -> bool:
    """Whether every array of the two has the same dtype and the same bits, NaN included."""
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(TrainSample)]
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
            completion.finish_reason,
            completion.weight_versions,
        )
        for completion in completions
    ]
