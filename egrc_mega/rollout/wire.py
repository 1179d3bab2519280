"""What goes to a server and what must come back. Nothing enters a batch before it has passed here.

Shape suffixes: O sampled tokens of one reply.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from egrc_mega.rollout.errors import UnusableReply
from egrc_mega.rollout.reply_arrays import MASK_EDGE, Wrong, columns, integers, masks
from egrc_mega.sampling_mask import SamplingMask, join_masks
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan

LOGPROB_SLACK = 1e-3
"""A log-prob may exceed zero by rounding only."""
MASK_TOKEN_BYTES = 12
"""Of an id in a reply's sampling mask, with its comma."""
NEUTRAL = {
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_new_tokens": 0,
    "ignore_eos": False,
    "n": 1,
}
"""Sampling parameters that we do not use, or not always, at the values that change nothing. They are sent all the same:
a server may have been started with others (sglang's --preferred-sampling-params), which no log-prob would show."""
ROW_EDGE, SAME_LENGTH = b"],[", b" , "
MASKS = b'"output_token_sampling_mask":[['
"""No text of a reply has this in it: quotation marks in a text have a backslash before them."""


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
    output_token_logprobs: Any = []
    """Per token, so checked as arrays: see `reply_arrays`."""
    output_token_sampling_mask: Any = None
    output_token_sampling_logprobs: Any = None
    """Per token, where they were asked for: see `reply_arrays.masks`."""


class _Generation(_Wire):
    output_ids: Any = []
    """Per token, so checked as an array: see `reply_arrays`."""
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


def generation_body(request: RolloutRequest) -> dict[str, Any]:
    """What /generate is sent: the forced tokens follow the prompt, and leave that much less to be sampled."""
    sampling, params = request.sampling, dict(NEUTRAL)
    if sampling.top_k is not None:
        params["top_k"] = sampling.top_k
    return {
        "rid": request.rid,
        "input_ids": np.concatenate([request.prompt_ids, request.forced_ids]),
        "sampling_params": params
        | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens - len(request.forced_ids),
            "stop_token_ids": sampling.stop_token_ids,
            "sampling_seed": request.seed,
        },
        "return_logprob": True,
        **({} if sampling.top_k is None else {"return_sampling_mask": True}),
    }


def read_generation(raw: bytes) -> Any:
    """What orjson reads in a reply to /generate whose rows `[log-prob, id, text]` are laid end to end first.

    One list of plain values takes half the time of a list for each token to read, and again to convert. Nothing but
    the edges between rows is lost, and `columns` reads the rows' values in the same order with and without them.
    Sampling masks become one list, too, with `MASK_EDGE` where one ends and the next begins.
    """
    head, key, rest = raw.partition(MASKS)
    masks, end, tail = rest.partition(b"]]")
    edge = b",%d," % MASK_EDGE
    joined = head.replace(ROW_EDGE, SAME_LENGTH) + key + masks.replace(ROW_EDGE, edge) + end
    try:
        return orjson.loads(joined + tail.replace(ROW_EDGE, SAME_LENGTH))
    except orjson.JSONDecodeError:  # an empty mask, say: what is wrong is said of the reply as it came
        return orjson.loads(raw)


def parse_generation(
    reply: Any, request: RolloutRequest, url: str, vocab_size: int | None = None
) -> tuple[Completion, Usage]:
    """A validated completion of `request`, and its cost. A request aborted in a queue may lack everything but its end.

    Args:
        reply: as `read_generation` or orjson.loads gives it.
        vocab_size: of the model, when it is known: a reply may have no other ids.

    Raises:
        UnusableReply: naming the server, the request and what is wrong with the reply.
    """
    try:
        generation = _Generation.model_validate(reply)
        return _checked(generation, request, vocab_size)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
    except Wrong as error:
        problem = str(error)
    raise UnusableReply(f"reply of {url} to request {request.rid} is unusable: {problem}")


def _checked(generation: _Generation, request: RolloutRequest, vocab_size: int | None) -> tuple[Completion, Usage]:
    meta, num_forced = generation.meta_info, len(request.forced_ids)
    ids_O = integers(generation.output_ids, "output_ids")
    logprobs_O, logprob_ids_O = columns(meta.output_token_logprobs)
    if meta.id != request.rid:
        raise Wrong(f"it answers request {meta.id}")
    if not len(ids_O) == len(logprobs_O) == meta.completion_tokens:
        raise Wrong(f"{len(ids_O)} ids, {len(logprobs_O)} log-probs, {meta.completion_tokens} tokens claimed")
    if not np.array_equal(ids_O, logprob_ids_O):
        raise Wrong("log-probs belong to other tokens than output_ids")
    _check_ids(ids_O, vocab_size)
    _check_number(len(ids_O), meta, request.sampling.max_new_tokens - num_forced)
    spans = _spans(meta, len(ids_O), num_forced)
    usage = Usage(meta.prompt_tokens, meta.cached_tokens, len(ids_O))
    mask = None
    if request.sampling.top_k is not None and len(ids_O):
        if _has_lost_masks(meta):
            return _completion(request, meta, ids_O[:0], logprobs_O[:0], None, ()), usage
        mask, logprobs_O = masks(meta.output_token_sampling_mask, meta.output_token_sampling_logprobs, ids_O)
        _check_ids(mask.token_ids, vocab_size)
    _check_logprobs(logprobs_O)
    return _completion(request, meta, ids_O, logprobs_O, mask, spans), usage


def _has_lost_masks(meta: _Meta) -> bool:
    """A request that was aborted in the queue it had gone back to, retracted: SGLang 0.5.23 names its tokens then, and
    not what they were drawn from. Nobody can train on such tokens."""
    return meta.finish_reason.type is FinishReason.ABORT and meta.output_token_sampling_mask is None


def _check_ids(ids: np.ndarray, vocab_size: int | None) -> None:
    limit = math.inf if vocab_size is None else vocab_size
    if len(ids) and not 0 <= ids.min() <= ids.max() < min(limit, 2**31):
        raise Wrong(f"an id is outside the model's vocabulary of {limit}")


def _check_logprobs(logprobs_O: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        is_good_O = np.isfinite(logprobs_O.astype(np.float32)) & (logprobs_O <= LOGPROB_SLACK)
    if not is_good_O.all():
        raise Wrong("a log-prob is not finite or above zero")


def _check_number(num_ids: int, meta: _Meta, room: int) -> None:
    """Of tokens: as many as were asked for, at the most, and none only from a request that was aborted."""
    if num_ids > room:
        raise Wrong(f"{num_ids} tokens, asked for at most {room}")
    if not num_ids and meta.finish_reason.type is not FinishReason.ABORT and room:
        raise Wrong("no token, and it was not aborted")


def _spans(meta: _Meta, num_sampled: int, num_forced: int) -> tuple[VersionSpan, ...]:
    """The reply's spans, behind the forced tokens; a server too old to send any has one version for the whole."""
    spans = meta.weight_versions
    if not spans and num_sampled and meta.weight_version is not None:
        spans = [_Span(version=meta.weight_version, start=0, end=num_sampled)]
    edges = [0] + [span.end for span in spans]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != num_sampled:
        raise Wrong(f"weight_versions do not cover the {num_sampled} output tokens")
    return tuple(
        VersionSpan(version=span.version, start=num_forced + span.start, end=num_forced + span.end) for span in spans
    )


def _completion(
    request: RolloutRequest,
    meta: _Meta,
    ids_O: np.ndarray,
    logprobs_O: np.ndarray,
    mask: SamplingMask | None,
    spans: tuple[VersionSpan, ...],
) -> Completion:
    """The forced tokens and behind them the sampled ones."""
    num_forced = len(request.forced_ids)
    is_stopped = len(ids_O) > 0 and int(ids_O[-1]) in request.sampling.stop_token_ids
    return Completion(
        rid=request.rid,
        output_ids=np.concatenate([request.forced_ids, ids_O.astype(np.int32)]),
        logprobs=np.concatenate([np.zeros(num_forced, np.float32), logprobs_O.astype(np.float32)]),
        sampled=np.arange(num_forced + len(ids_O)) >= num_forced,
        sampling_mask=join_masks([(None, num_forced), (mask, len(ids_O))]),
        # sglang looks at the length first, and calls a stop token on the cap "length"; an abort may meet one, too
        finish_reason=FinishReason.STOP if is_stopped else meta.finish_reason.type,
        weight_versions=spans,
    )
