"""What a server's replies must look like. Nothing enters a batch before it has passed here."""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from egrc_mega.errors import RolloutError
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan

LOGPROB_SLACK = 1e-3
"""A log-prob may exceed zero by rounding only."""


class UnusableReply(RolloutError):
    """A reply that must not enter a batch."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _FinishReason(_Wire):
    type: FinishReason


class _Span(_Wire):
    version: str
    start: StrictInt
    end: StrictInt


class _Meta(_Wire):
    id: str
    finish_reason: _FinishReason
    prompt_tokens: StrictInt = 0
    cached_tokens: StrictInt = 0
    completion_tokens: StrictInt = 0
    weight_version: str | None = None
    weight_versions: list[_Span] = []
    output_token_logprobs: list[tuple[float, StrictInt, str | None]] = []


class _Generation(_Wire):
    output_ids: list[StrictInt] = []
    meta_info: _Meta


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply cost, in tokens."""

    prompt: int
    cached: int
    """Of the prompt, found in the server's prefix cache."""
    output: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt + other.prompt, self.cached + other.cached, self.output + other.output)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt - other.prompt, self.cached - other.cached, self.output - other.output)


def parse_generation(
    raw: Any, request: RolloutRequest, url: str, vocab_size: int | None = None
) -> tuple[Completion, Usage]:
    """A validated completion of `request`, and its cost. A request aborted in a queue may lack everything but its end.

    Raises:
        UnusableReply: naming the server, the request and what is wrong with the reply.
    """
    try:
        reply = _Generation.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise _bad(url, request, f"{where}: {first['msg']}") from error
    meta, ids = reply.meta_info, reply.output_ids
    logprobs = tuple(row[0] for row in meta.output_token_logprobs)
    if meta.id != request.rid:
        raise _bad(url, request, f"it answers request {meta.id}")
    if not len(ids) == len(logprobs) == meta.completion_tokens:
        raise _bad(url, request, f"{len(ids)} ids, {len(logprobs)} log-probs, {meta.completion_tokens} tokens claimed")
    if any(row[1] != token for row, token in zip(meta.output_token_logprobs, ids, strict=True)):
        raise _bad(url, request, "log-probs belong to other tokens than output_ids")
    limit = math.inf if vocab_size is None else vocab_size
    if not all(0 <= token < limit for token in ids):
        raise _bad(url, request, f"an id is outside the model's vocabulary of {limit}")
    if not all(math.isfinite(lp) and lp <= LOGPROB_SLACK for lp in logprobs):
        raise _bad(url, request, "a log-prob is not finite or above zero")
    if len(ids) > request.sampling.max_new_tokens:
        raise _bad(url, request, f"{len(ids)} tokens, asked for at most {request.sampling.max_new_tokens}")
    if not ids and meta.finish_reason.type is not FinishReason.ABORT and request.sampling.max_new_tokens:
        raise _bad(url, request, "no token, and it was not aborted")
    completion = Completion(
        rid=request.rid,
        output_ids=tuple(ids),
        logprobs=logprobs,
        mask=(1,) * len(ids),
        finish_reason=meta.finish_reason.type,
        weight_versions=_spans(meta, len(ids), request, url),
    )
    return completion, Usage(meta.prompt_tokens, meta.cached_tokens, len(ids))


def _spans(meta: _Meta, length: int, request: RolloutRequest, url: str) -> tuple[VersionSpan, ...]:
    """The spans of the reply; a server too old to send them has one version for the whole output."""
    spans = meta.weight_versions
    if not spans and length and meta.weight_version is not None:
        spans = [_Span(version=meta.weight_version, start=0, end=length)]
    edges = [0] + [span.end for span in spans]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != length:
        raise _bad(url, request, f"weight_versions do not cover the {length} output tokens")
    return tuple(VersionSpan(version=span.version, start=span.start, end=span.end) for span in spans)


def _bad(url: str, request: RolloutRequest, problem: str) -> UnusableReply:
    return UnusableReply(f"reply of {url} to request {request.rid} is unusable: {problem}")
