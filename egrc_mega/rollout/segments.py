"""Rollouts in segments: generation stops where an environment may write tokens, then goes on. Works on every server.

A token of the environment is not `sampled` and has log-prob 0. Each segment is a request of its own, with a seed that
is derived from the sample's; the cap counts all segments together with the environment's tokens and the forced ones.
"""

import random
from dataclasses import replace

import numpy as np

from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.environment import Environment
from egrc_mega.sampling_mask import join_masks
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan, token_array


async def generate(
    client: ServerClient, request: RolloutRequest, environment: Environment | None, begun: Completion | None = None
) -> Completion:
    """One sample, in as many segments as the environment asks for, after what an earlier step has begun."""
    if environment is None and begun is None:
        return await client.generate(request)
    whole = begun or unsampled(request)
    extra_stops = environment.stop_token_ids if environment else ()
    rng = random.Random(derive_seed(request.seed, "environment", *_start(begun)))
    for index in range(request.sampling.max_new_tokens):
        segment = await client.generate(_rest(request, whole, extra_stops, [*_start(begun), index]))
        whole = _joined(whole, segment)
        if environment is None or not _continues(segment, environment):
            return whole
        room = request.sampling.max_new_tokens - len(whole.output_ids)
        whole = _with_written(whole, environment.write(request.prompt_ids, whole.output_ids, rng)[:room])
        if len(whole.output_ids) >= request.sampling.max_new_tokens:
            break
    return replace(whole, finish_reason=FinishReason.LENGTH)


def unsampled(request: RolloutRequest) -> Completion:
    """A response that was aborted before its first token was sampled: it has what is forced, and no more."""
    num_forced = len(request.forced_ids)
    return Completion(
        rid=request.rid,
        output_ids=request.forced_ids,
        logprobs=np.zeros(num_forced, np.float32),
        sampled=np.zeros(num_forced, bool),
        finish_reason=FinishReason.ABORT,
        weight_versions=(),
    )


def _start(begun: Completion | None) -> list[int]:
    """The token at which a response goes on; nothing when it starts."""
    return [len(begun.output_ids)] if begun else []


def _rest(request: RolloutRequest, whole: Completion, extra_stops: tuple[int, ...], key: list[int]) -> RolloutRequest:
    """The request for what is missing from a response: the text so far is its prompt.

    `key`, the token at which it was taken up and how many segments came since, makes its id and seed its own.
    """
    sampling = replace(
        request.sampling,
        max_new_tokens=request.sampling.max_new_tokens - len(whole.output_ids),
        stop_token_ids=request.sampling.stop_token_ids + extra_stops,
    )
    return replace(
        request,
        rid="-".join([request.rid, "segment", *(f"{number:04d}" for number in key)]),
        prompt_ids=np.concatenate([request.prompt_ids, whole.output_ids]),
        forced_ids=token_array(),
        sampling=sampling,
        seed=derive_seed(request.seed, "segment", *key),
    )


def _continues(segment: Completion, environment: Environment) -> bool:
    is_stopped = segment.finish_reason is FinishReason.STOP
    return is_stopped and int(segment.output_ids[-1]) in environment.stop_token_ids


def _joined(whole: Completion, segment: Completion) -> Completion:
    offset = len(whole.output_ids)
    moved = [replace(s, start=s.start + offset, end=s.end + offset) for s in segment.weight_versions]
    return replace(
        whole,
        output_ids=np.concatenate([whole.output_ids, segment.output_ids]),
        logprobs=np.concatenate([whole.logprobs, segment.logprobs]),
        sampling_mask=join_masks([(whole.sampling_mask, offset), (segment.sampling_mask, len(segment.output_ids))]),
        sampled=np.concatenate([whole.sampled, segment.sampled]),
        finish_reason=segment.finish_reason,
        weight_versions=_merged([*whole.weight_versions, *moved]),
    )


def _with_written(whole: Completion, written: list[int]) -> Completion:
    """The environment's tokens belong to the version span before them: it writes after a sampled token only."""
    count = len(written)
    last = whole.weight_versions[-1]
    return replace(
        whole,
        output_ids=np.concatenate([whole.output_ids, token_array(written)]),
        logprobs=np.concatenate([whole.logprobs, np.zeros(count, np.float32)]),
        sampling_mask=join_masks([(whole.sampling_mask, len(whole.output_ids)), (None, count)]),
        sampled=np.concatenate([whole.sampled, np.zeros(count, bool)]),
        weight_versions=(*whole.weight_versions[:-1], replace(last, end=last.end + count)),
    )


def _merged(spans: list[VersionSpan]) -> tuple[VersionSpan, ...]:
    merged: list[VersionSpan] = []
    for span in spans:
        if merged and (merged[-1].version, merged[-1].pure) == (span.version, span.pure):
            merged[-1] = replace(merged[-1], end=span.end)
        else:
            merged.append(span)
    return tuple(merged)
