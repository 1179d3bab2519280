"""From graded groups to what the ranks train on, and that as bytes that every rank can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from egrc_mega.methods.aggregation import token_weights
from egrc_mega.methods.base import Method
from egrc_mega.policy.packing import joined
from egrc_mega.types import Completion, Grade, Group, Sample, TrainSample


@dataclass(frozen=True, slots=True)
class Batch:
    """One rollout batch, ready to train on."""

    updates: tuple[tuple[TrainSample, ...], ...]
    """One optimizer step each; empty when no sample has an advantage."""
    dropped: tuple[TrainSample, ...]
    """Without an advantage: only scored."""


def build_batch(groups: Sequence[Group], method: Method, version: str) -> Batch:
    """Give every sample its advantage and token weights, and split the kept ones over the stage's updates.

    Args:
        version: the trainer's weight version; log-probs under any other are not compared.
    """
    advantages = method.advantages(groups)
    num_updates = method.stage.optim.num_updates_per_rollout
    updates: list[tuple[TrainSample, ...]] = []
    dropped: list[TrainSample] = []
    for part in range(num_updates):
        # whole groups, dealt in turn, so that every update sees the batch's variety
        rows = [
            (sample, advantage)
            for group, row in zip(groups[part::num_updates], advantages[part::num_updates], strict=True)
            for sample, advantage in zip(group.samples, row, strict=True)
        ]
        kept, rest = _part(rows, method, version)
        dropped += rest
        if kept:
            updates.append(tuple(kept))
    return Batch(tuple(updates), tuple(dropped))


def _part(
    rows: Sequence[tuple[Sample, float]], method: Method, version: str
) -> tuple[list[TrainSample], list[TrainSample]]:
    """Kept and dropped samples of one update. Ungraded samples count in no mean."""
    graded = [(s, a) for s, a in rows if s.grade is not Grade.UNGRADED]
    ungraded = [s for s, _a in rows if s.grade is Grade.UNGRADED]
    chosen = [s.completion.sampled for s, _a in graded]
    weights = token_weights(chosen, [a != 0.0 for _s, a in graded], method.loss)
    kept: list[TrainSample] = []
    dropped: list[TrainSample] = []
    for (sample, advantage), own_weights in zip(graded, weights, strict=True):
        # the KL term holds every graded response, whatever its advantage
        is_kept = advantage != 0.0 or (method.loss.kl_coef > 0 and own_weights.any())
        (kept if is_kept else dropped).append(_train_sample(sample, advantage, own_weights, version))
    dropped += [_train_sample(s, 0.0, np.zeros(s.length, np.float32), version) for s in ungraded]
    return kept, dropped


def _train_sample(sample: Sample, advantage: float, weights: NDArray[np.float32], version: str) -> TrainSample:
    """The record of one sample; its advantage is spread over all tokens."""
    completion = sample.completion
    sampled = completion.sampled
    return TrainSample(
        prompt_ids=sample.prompt.token_ids,
        output_ids=completion.output_ids,
        sampled=sampled,
        loss_weights=weights,
        advantages=np.full(len(sampled), advantage, np.float32),
        rollout_logprobs=np.where(sampled, completion.logprobs, np.float32(np.nan)),
        compared=_compared(completion, version) & sampled,
    )


def _compared(completion: Completion, version: str) -> NDArray[np.bool_]:
    """[O] True where the server had the weights called `version`."""
    current = np.zeros(len(completion.output_ids), np.bool_)
    for span in completion.weight_versions:
        if span.version == version:
            current[span.start : span.end] = True
    return current


PER_OUTPUT_TOKEN = {
    "output_ids": np.int32,
    "sampled": np.bool_,
    "loss_weights": np.float32,
    "advantages": np.float32,
    "rollout_logprobs": np.float32,
    "compared": np.bool_,
}
"""Arrays of every sample with one value an output token, and their dtypes."""


def encode(batch: Batch) -> bytes:
    """A batch as safetensors bytes: the samples' arrays end to end, nothing to execute."""
    samples = [*batch.dropped, *(sample for update in batch.updates for sample in update)]
    parts = [-1] * len(batch.dropped) + [i for i, update in enumerate(batch.updates) for _ in update]
    stated = [sample for sample in samples if sample.old_logprobs is not None]
    return save(
        {
            "part": np.array(parts, np.int32),
            "prompt_length": np.array([len(s.prompt_ids) for s in samples], np.int64),
            "output_length": np.array([len(s.output_ids) for s in samples], np.int64),
            "states_old_logprobs": np.array([s.old_logprobs is not None for s in samples], np.bool_),
            "prompt_ids": joined(samples, "prompt_ids", np.int32),
            "old_logprobs": joined(stated, "old_logprobs", np.float32),
            **{name: joined(samples, name, dtype) for name, dtype in PER_OUTPUT_TOKEN.items()},
        }
    )


def decode(payload: bytes) -> Batch:
    """Undo `encode`. The samples' arrays are views of the loaded ones: a rank pays only for what it trains on."""
    arrays = load(payload)
    prompts, outputs = _slices(arrays["prompt_length"]), _slices(arrays["output_length"])
    states_old = arrays["states_old_logprobs"]
    old_logprobs = iter(_slices(arrays["output_length"][states_old]))
    samples = [
        TrainSample(
            prompt_ids=arrays["prompt_ids"][prompt],
            old_logprobs=arrays["old_logprobs"][next(old_logprobs)] if has_old else None,
            **{name: arrays[name][output] for name in PER_OUTPUT_TOKEN},
        )
        for prompt, output, has_old in zip(prompts, outputs, states_old, strict=True)
    ]
    by_part: dict[int, list[TrainSample]] = {}
    for part, sample in zip(arrays["part"].tolist(), samples, strict=True):
        by_part.setdefault(part, []).append(sample)
    dropped = by_part.pop(-1, [])
    return Batch(tuple(tuple(by_part[part]) for part in sorted(by_part)), tuple(dropped))


def _slices(lengths: NDArray[np.int64]) -> list[slice]:
    """Where arrays of these lengths lie when they are end to end."""
    ends = np.cumsum(lengths).tolist()
    return [slice(start, end) for start, end in pairwise([0, *ends])]
