"""From graded groups to what the ranks train on, and that as bytes that every rank can read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from safetensors.numpy import load, save

from egrc_mega.methods.aggregation import token_weights
from egrc_mega.methods.base import Method
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
    masks = [s.completion.mask for s, _a in graded]
    weights = token_weights(masks, [a != 0.0 for _s, a in graded], method.loss)
    samples = [_train_sample(s, a, w, version) for (s, a), w in zip(graded, weights, strict=True)]
    samples += [_train_sample(s, 0.0, tuple(0.0 for _ in s.completion.mask), version) for s in ungraded]
    # the KL term holds every graded response, whatever its advantage
    held = [s.advantage != 0.0 or (method.loss.kl_coef > 0 and any(s.loss_weights)) for s in samples]
    pairs = list(zip(samples, held, strict=True))
    return [s for s, is_held in pairs if is_held], [s for s, is_held in pairs if not is_held]


def _train_sample(sample: Sample, advantage: float, weights: tuple[float, ...], version: str) -> TrainSample:
    completion = sample.completion
    return TrainSample(
        prompt_ids=sample.prompt.token_ids,
        output_ids=completion.output_ids,
        mask=completion.mask,
        loss_weights=weights,
        advantage=advantage,
        rollout_logprobs=tuple(p if m else math.nan for p, m in zip(completion.logprobs, completion.mask, strict=True)),
        compared=_compared(completion, version),
    )


def _compared(completion: Completion, version: str) -> tuple[int, ...]:
    """1 where the policy chose the token under `version`."""
    current = [0] * len(completion.output_ids)
    for span in completion.weight_versions:
        if span.version == version:
            current[span.start : span.end] = [1] * (span.end - span.start)
    return tuple(m * c for m, c in zip(completion.mask, current, strict=True))


def encode(batch: Batch) -> bytes:
    """A batch as safetensors bytes: plain arrays, nothing to execute."""
    samples = [*batch.dropped, *(sample for update in batch.updates for sample in update)]
    parts = [-1] * len(batch.dropped) + [i for i, update in enumerate(batch.updates) for _ in update]
    return save(
        {
            "part": np.array(parts, np.int32),
            "advantage": np.array([s.advantage for s in samples], np.float64),
            "prompt_length": np.array([len(s.prompt_ids) for s in samples], np.int64),
            "output_length": np.array([len(s.output_ids) for s in samples], np.int64),
            "prompt_ids": np.array([i for s in samples for i in s.prompt_ids], np.int32),
            "output_ids": np.array([i for s in samples for i in s.output_ids], np.int32),
            "mask": np.array([m for s in samples for m in s.mask], np.int8),
            "loss_weights": np.array([w for s in samples for w in s.loss_weights], np.float64),
            "compared": np.array([c for s in samples for c in s.compared], np.int8),
            "rollout_logprobs": np.array([p for s in samples for p in s.rollout_logprobs], np.float64),
        }
    )


def decode(payload: bytes) -> Batch:
    """Undo `encode`."""
    arrays = {name: array.tolist() for name, array in load(payload).items()}
    prompts = list(pairwise(accumulate(arrays["prompt_length"], initial=0)))
    outputs = list(pairwise(accumulate(arrays["output_length"], initial=0)))
    samples = [
        TrainSample(
            prompt_ids=tuple(arrays["prompt_ids"][slice(*prompt)]),
            output_ids=tuple(arrays["output_ids"][slice(*output)]),
            mask=tuple(arrays["mask"][slice(*output)]),
            loss_weights=tuple(arrays["loss_weights"][slice(*output)]),
            advantage=advantage,
            rollout_logprobs=tuple(arrays["rollout_logprobs"][slice(*output)]),
            compared=tuple(arrays["compared"][slice(*output)]),
        )
        for prompt, output, advantage in zip(prompts, outputs, arrays["advantage"], strict=True)
    ]
    by_part: dict[int, list[TrainSample]] = {}
    for part, sample in zip(arrays["part"], samples, strict=True):
        by_part.setdefault(part, []).append(sample)
    dropped = by_part.pop(-1, [])
    return Batch(tuple(tuple(by_part[part]) for part in sorted(by_part)), tuple(dropped))
