"""From graded groups to what the ranks train on, and that as bytes that every rank can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from egrc_mega.methods.method import is_graded
from egrc_mega.methods.records import DROPPED, Credit, IntArray
from egrc_mega.methods.weights import token_weights
from egrc_mega.policy.packing import joined
from egrc_mega.sampling_mask import SamplingMask, join_masks
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import BoolArray, Completion, FloatArray, Group, Sample, TrainSample


@dataclass(frozen=True, slots=True)
class Batch:
    """One rollout batch, ready to train on."""

    updates: tuple[tuple[TrainSample, ...], ...]
    """One optimizer step each; empty when no sample has an advantage."""
    dropped: tuple[TrainSample, ...]
    """Without an advantage: only scored."""


def build_batch(
    groups: Sequence[Group], credits: Sequence[Sequence[Credit]], stage: StageSection, version: str
) -> Batch:
    """Give every sample its token weights, and split those that are trained on over the stage's updates.

    Args:
        credits: what each sample teaches, group by group.
        version: the trainer's weight version; log-probs under any other are not compared.
    """
    num_updates = stage.optim.num_updates_per_rollout
    updates: list[tuple[TrainSample, ...]] = []
    dropped: list[TrainSample] = []
    for part in range(num_updates):
        # whole groups, dealt in turn, so that every update sees the batch's variety
        rows = [
            (sample, credit)
            for group, row in zip(groups[part::num_updates], credits[part::num_updates], strict=True)
            for sample, credit in zip(group.samples, row, strict=True)
        ]
        kept, rest = _part(rows, stage.loss, version)
        dropped += rest
        if kept:
            updates.append(tuple(kept))
    return Batch(tuple(updates), tuple(dropped))


def scored_only(groups: Sequence[Group], version: str) -> Batch:
    """Every sample of the groups, in order, to be scored and not trained on."""
    samples = [sample for group in groups for sample in group.samples]
    return Batch((), tuple(_train_sample(s, DROPPED, np.zeros(s.length), version) for s in samples))


def _part(
    rows: Sequence[tuple[Sample, Credit]], loss: LossSection, version: str
) -> tuple[list[TrainSample], list[TrainSample]]:
    """Kept and dropped samples of one update. Ungraded samples count in no mean."""
    graded = [(s, c) for s, c in rows if is_graded(s)]
    ungraded = [s for s, _c in rows if not is_graded(s)]
    trained = [_trained(s, c) for s, c in graded]
    classes = [c.token_class for _s, c in graded]
    weights, scales = _weights_and_scales(trained, [c.kept for _s, c in graded], loss, classes)
    kept: list[TrainSample] = []
    dropped: list[TrainSample] = []
    for (sample, credit), own_weights, scale in zip(graded, weights, scales, strict=True):
        # KL and entropy hold every graded response, whatever its advantage
        is_kept = credit.kept or (loss.holds_all and own_weights.any())
        (kept if is_kept else dropped).append(_train_sample(sample, credit, own_weights, version, scale))
    dropped += [_train_sample(s, DROPPED, np.zeros(s.length), version) for s in ungraded]
    return kept, dropped


def _weights_and_scales(
    trained: Sequence[BoolArray], is_kept: Sequence[bool], loss: LossSection, classes: Sequence[IntArray | None]
) -> tuple[Sequence[NDArray[np.float64]], Sequence[float | NDArray[np.float64]]]:
    """Weights of the tokens, and what their advantages are multiplied by.

    KL and entropy are means over every graded response, whatever the denominator, so that their coefficients always
    mean the same. They share their weights with the advantages' term, which is linear in the advantage: where that one
    is divided by the kept responses, the advantage takes the difference.
    """
    weights = token_weights(trained, is_kept, loss, classes)
    if not loss.holds_all or loss.denominator == "all":
        return weights, [1.0] * len(weights)
    over_all = token_weights(trained, is_kept, loss.model_copy(update={"denominator": "all"}), classes)
    return over_all, [own / np.where(common > 0, common, 1.0) for own, common in zip(weights, over_all, strict=True)]


def _sampled(sample: Sample, credit: Credit) -> BoolArray:
    """[O] bool: where the policy sampled the token; what stands after an edit counts as sampled too."""
    sampled = sample.completion.sampled
    if credit.edit is None:
        return sampled
    rest = np.ones(len(credit.edit.output_ids) - credit.edit.first_changed, np.bool_)
    return np.concatenate([sampled[: credit.edit.first_changed], rest])


def _trained(sample: Sample, credit: Credit) -> BoolArray:
    """[O] bool: the tokens that the loss may hold: sampled ones, and forced ones whose old log-prob is stated."""
    trained = _sampled(sample, credit)
    if credit.forced_logprob is not None and sample.num_forced:
        trained = trained.copy()
        trained[: sample.num_forced] = True
    return trained


def _train_sample(
    sample: Sample,
    credit: Credit,
    weights: NDArray[np.float64],
    version: str,
    scale: float | NDArray[np.float64] = 1.0,
) -> TrainSample:
    """The record of one sample; one advantage, times `scale`, is spread over all tokens."""
    completion, edit = sample.completion, credit.edit
    output_ids = completion.output_ids if edit is None else np.asarray(edit.output_ids, np.int32)
    size, sampled = len(output_ids), _sampled(sample, credit)
    # behind an edit no server has ever said anything of these tokens
    known = len(completion.output_ids) if edit is None else edit.first_changed
    server = np.full(size, np.nan, np.float32)
    server[:known] = np.where(completion.sampled[:known], completion.logprobs[:known], np.float32(np.nan))
    compared = np.zeros(size, np.bool_)
    compared[:known] = _compared(completion, version)[:known] & completion.sampled[:known]
    advantage = credit.advantage if credit.kept else 0.0
    return TrainSample(
        prompt_ids=sample.prompt_ids,
        output_ids=output_ids,
        sampled=sampled,
        loss_weights=weights.astype(np.float32),
        advantages=np.broadcast_to(np.asarray(advantage * scale, np.float32), (size,)),
        rollout_logprobs=server,
        compared=compared,
        old_logprobs=_stated(sample, credit, size),
        sampling_mask=_mask(completion, known, size),
    )


def _mask(completion: Completion, known: int, size: int) -> SamplingMask | None:
    """What the first `known` of `size` tokens were drawn from; those of an edit count as drawn from all there is."""
    mask = completion.sampling_mask
    return None if mask is None else join_masks([(mask.first(known), known), (None, size - known)])


def _stated(sample: Sample, credit: Credit, size: int) -> FloatArray | None:
    """[O] float32: the old log-prob that the method states for its forced tokens, NaN elsewhere."""
    if credit.forced_logprob is None or not sample.num_forced:
        return None
    stated = np.full(size, np.nan, np.float32)
    stated[: sample.num_forced] = credit.forced_logprob
    return stated


def _compared(completion: Completion, version: str) -> BoolArray:
    """[O] bool: where server and trainer must agree: the server had the weights called `version`, and so had all that
    the token looks back at."""
    current = np.zeros(len(completion.output_ids), np.bool_)
    for span in completion.weight_versions:
        if span.version == version and span.pure:
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
    mask = join_masks([(sample.sampling_mask, len(sample.output_ids)) for sample in samples])
    return save(
        {
            "part": np.array(parts, np.int32),
            "prompt_length": np.array([len(s.prompt_ids) for s in samples], np.int64),
            "output_length": np.array([len(s.output_ids) for s in samples], np.int64),
            "states_old_logprobs": np.array([s.old_logprobs is not None for s in samples], np.bool_),
            "prompt_ids": joined(samples, "prompt_ids", np.int32),
            "old_logprobs": joined(stated, "old_logprobs", np.float32),
            **{name: joined(samples, name, dtype) for name, dtype in PER_OUTPUT_TOKEN.items()},
            **({} if mask is None else {"mask_ids": mask.token_ids, "mask_counts": mask.counts}),
        }
    )


def decode(payload: bytes) -> Batch:
    """Undo `encode`. The samples' arrays are views of the loaded ones: a rank pays only for what it trains on."""
    arrays = load(payload)
    prompts, outputs = _slices(arrays["prompt_length"]), _slices(arrays["output_length"])
    states_old = arrays["states_old_logprobs"]
    old_logprobs = iter(_slices(arrays["output_length"][states_old]))
    masks: Sequence[SamplingMask | None] = [None] * len(outputs)
    if "mask_counts" in arrays:
        masks = SamplingMask(arrays["mask_ids"], arrays["mask_counts"]).split(arrays["output_length"])
    samples = [
        TrainSample(
            prompt_ids=arrays["prompt_ids"][prompt],
            old_logprobs=arrays["old_logprobs"][next(old_logprobs)] if has_old else None,
            sampling_mask=mask,
            **{name: arrays[name][output] for name in PER_OUTPUT_TOKEN},
        )
        for prompt, output, has_old, mask in zip(prompts, outputs, states_old, masks, strict=True)
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
