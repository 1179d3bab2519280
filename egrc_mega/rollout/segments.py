"""Rollouts in segments: generation stops where an environment may write tokens, then goes on. Works on every server.

A token of the environment has mask 0 and log-prob 0. Each segment is a request of its own, with a seed derived from the
sample's; the cap counts all segments together with the environment's tokens.
"""

import random
from dataclasses import replace
from typing import Protocol

from egrc_mega.rollout.client import ServerClient
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan


class Environment(Protocol):
    """Writes some of the tokens of a response."""

    stop_token_ids: tuple[int, ...]
    """Where it may write: generation stops after one of these."""

    def write(self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...], rng: random.Random) -> list[int]:
        """Token ids to append after `output_ids`; a pure function of its arguments."""


async def generate(
    client: ServerClient, request: RolloutRequest, environment: Environment | None, begun: Completion | None = None
) -> Completion:
    """One sample, in as many segments as the environment asks for, after what an earlier step has begun."""
    stop_ids = list(request.sampling.stop_token_ids)
    if environment is None and begun is None:
        return await client.generate(request, request.prompt.token_ids, stop_ids)
    whole = begun or empty(request)
    rng = random.Random(derive_seed(request.seed, "environment", *_place(begun)))
    for index in range(request.sampling.max_new_tokens):
        segment_request = _segment_request(request, [*_place(begun), index], len(whole.output_ids))
        if environment is None:
            text = request.prompt.token_ids + whole.output_ids
            return _joined(whole, await client.generate(segment_request, text, stop_ids))
        text = request.prompt.token_ids + whole.output_ids
        segment = await client.generate(segment_request, text, stop_ids + list(environment.stop_token_ids))
        whole = _joined(whole, segment)
        if not _continues(segment, environment):
            return whole
        room = request.sampling.max_new_tokens - len(whole.output_ids)
        written = environment.write(request.prompt.token_ids, whole.output_ids, rng)[:room]
        whole = _with_written(whole, written)
        if len(whole.output_ids) >= request.sampling.max_new_tokens:
            break
    return replace(whole, finish_reason=FinishReason.LENGTH)


def empty(request: RolloutRequest) -> Completion:
    """A response of which nothing is there."""
    return Completion(
        rid=request.rid, output_ids=(), logprobs=(), mask=(), finish_reason=FinishReason.ABORT, weight_versions=()
    )


def _place(begun: Completion | None) -> list[int]:
    """Where a response goes on; nothing when it starts."""
    return [len(begun.output_ids)] if begun else []


def _segment_request(request: RolloutRequest, place: list[int], used: int) -> RolloutRequest:
    sampling = replace(request.sampling, max_new_tokens=request.sampling.max_new_tokens - used)
    rid = "-".join([request.rid, "segment", *(f"{number:04d}" for number in place)])
    return replace(request, rid=rid, sampling=sampling, seed=derive_seed(request.seed, "segment", *place))


def _continues(segment: Completion, environment: Environment) -> bool:
    is_stopped = segment.finish_reason is FinishReason.STOP
    return is_stopped and segment.output_ids[-1] in environment.stop_token_ids


def _joined(whole: Completion, segment: Completion) -> Completion:
    offset = len(whole.output_ids)
    moved = [replace(s, start=s.start + offset, end=s.end + offset) for s in segment.weight_versions]
    return replace(
        whole,
        output_ids=whole.output_ids + segment.output_ids,
        logprobs=whole.logprobs + segment.logprobs,
        mask=whole.mask + segment.mask,
        finish_reason=segment.finish_reason,
        weight_versions=_merged([*whole.weight_versions, *moved]),
    )


def _with_written(whole: Completion, written: list[int]) -> Completion:
    """The environment's tokens belong to the version span before them, so that spans cover the output."""
    count = len(written)
    last = whole.weight_versions[-1]
    return replace(
        whole,
        output_ids=whole.output_ids + tuple(written),
        logprobs=whole.logprobs + (0.0,) * count,
        mask=whole.mask + (0,) * count,
        weight_versions=(*whole.weight_versions[:-1], replace(last, end=last.end + count)),
    )


def _merged(spans: list[VersionSpan]) -> tuple[VersionSpan, ...]:
    merged: list[VersionSpan] = []
    for span in spans:
        if merged and merged[-1].version == span.version:
            merged[-1] = replace(merged[-1], end=span.end)
        else:
            merged.append(span)
    return tuple(merged)
