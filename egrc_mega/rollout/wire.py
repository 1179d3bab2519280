"""What goes to a server and what must come back. Nothing enters a batch before it has passed here.

Shape suffixes: O sampled tokens of one reply.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from egrc_mega.rollout.errors import UnusableReply
from egrc_mega.types import Completion, FinishReason, RolloutRequest, VersionSpan

LOGPROB_SLACK = 1e-3
"""A log-prob may exceed zero by rounding only."""
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
"""Sampling parameters that no configuration of ours has, at the values that change nothing. They are sent all the same:
a server may have been started with others (sglang's --preferred-sampling-params), which no log-prob would show."""
ROW_EDGE, SAME_LENGTH = b"],[", b" , "


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
    """Per token, so checked as arrays: see `_columns`."""


class _Generation(_Wire):
    output_ids: Any = []
    """Per token, so checked as an array: see `_integers`."""
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
    sampling = request.sampling
    return {
        "rid": request.rid,
        "input_ids": np.concatenate([request.prompt_ids, request.forced_ids]),
        "sampling_params": NEUTRAL
        | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens - len(request.forced_ids),
            "stop_token_ids": sampling.stop_token_ids,
            "sampling_seed": request.seed,
        },
        "return_logprob": True,
    }


def read_generation(raw: bytes) -> Any:
    """What orjson reads in a reply to /generate whose rows `[log-prob, id, text]` are laid end to end first.

    One list of plain values takes half the time of a list for each token to read, and again to convert. Nothing but
    the edges between rows is lost, and `_columns` reads the rows' values in the same order with and without them.
    """
    return orjson.loads(raw.replace(ROW_EDGE, SAME_LENGTH))


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
    except _Wrong as error:
        problem = str(error)
    raise UnusableReply(f"reply of {url} to request {request.rid} is unusable: {problem}")


class _Wrong(Exception):
    """What is wrong with a reply, in words."""


def _checked(generation: _Generation, request: RolloutRequest, vocab_size: int | None) -> tuple[Completion, Usage]:
    meta, num_forced = generation.meta_info, len(request.forced_ids)
    ids_O = _integers(generation.output_ids, "output_ids")
    logprobs_O, logprob_ids_O = _columns(meta.output_token_logprobs)
    if meta.id != request.rid:
        raise _Wrong(f"it answers request {meta.id}")
    if not len(ids_O) == len(logprobs_O) == meta.completion_tokens:
        raise _Wrong(f"{len(ids_O)} ids, {len(logprobs_O)} log-probs, {meta.completion_tokens} tokens claimed")
    _check_tokens(ids_O, logprobs_O, logprob_ids_O, vocab_size)
    _check_number(len(ids_O), meta, request.sampling.max_new_tokens - num_forced)
    spans = _spans(meta, len(ids_O), num_forced)
    usage = Usage(meta.prompt_tokens, meta.cached_tokens, len(ids_O))
    return _completion(request, meta, ids_O, logprobs_O, spans), usage


def _integers(values: Any, where: str) -> np.ndarray:
    """[O] int64 of a list of integers; no bool and no float passes as one."""
    found = _array(values, where)
    if found.dtype == np.int64:
        # numpy takes True for 1 and False for 0, and has no other way to hide a bool among integers
        doubtful = np.flatnonzero((found == 0) | (found == 1)).tolist()
        if all(type(values[i]) is int for i in doubtful):
            return found
    wrong = next((i for i, value in enumerate(values) if type(value) is not int), 0)
    raise _Wrong(f"{where}.{wrong}: Input should be a valid integer")


def _numbers(values: Any, where: str) -> np.ndarray:
    """[O] float64 of a list of numbers."""
    found = _array(values, where)
    if found.dtype in (np.float64, np.int64):
        return found.astype(np.float64)
    wrong = next((i for i, value in enumerate(values) if type(value) not in (float, int)), 0)
    raise _Wrong(f"{where}.{wrong}.0: Input should be a valid number")


def _array(values: Any, where: str) -> np.ndarray:
    """Of whatever type numpy finds in a list; float64 when there is nothing in it that it could tell from."""
    if not isinstance(values, list):
        raise _Wrong(f"{where}: Input should be a valid list")
    if not values:
        return np.zeros(0, np.int64)
    try:
        found = np.array(values)
    except ValueError:  # lists of different lengths in it
        return np.zeros(len(values), object)
    return found if found.ndim == 1 else np.zeros(len(values), object)


def _columns(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """[O] log-probs, float64, and [O] ids, int64, of rows `[log-prob, id, text]`, each by itself or all in one row."""
    where = "meta_info.output_token_logprobs"
    if not isinstance(rows, list):
        raise _Wrong(f"{where}: Input should be a valid list")
    if not set(map(type, rows)) <= {list}:
        raise _Wrong(f"{where}: Input should be a valid tuple")
    cells = rows[0] if len(rows) == 1 else list(chain.from_iterable(rows))
    is_one_row = len(rows) == 1 and len(cells) % 3 == 0 and len(cells) > 0
    if not is_one_row and any(len(row) != 3 for row in rows):
        raise _Wrong(f"{where}: a row has not its three values")
    texts = cells[2::3]
    if texts.count(None) != len(texts) and not all(text is None or isinstance(text, str) for text in texts):
        raise _Wrong(f"{where}: the third value of a row should be a valid string or null")
    return _numbers(cells[0::3], where), _integers(cells[1::3], where)


def _check_tokens(ids_O: np.ndarray, logprobs_O: np.ndarray, logprob_ids_O: np.ndarray, vocab_size: int | None) -> None:
    if not np.array_equal(ids_O, logprob_ids_O):
        raise _Wrong("log-probs belong to other tokens than output_ids")
    limit = math.inf if vocab_size is None else vocab_size
    if len(ids_O) and not 0 <= ids_O.min() <= ids_O.max() < min(limit, 2**31):
        raise _Wrong(f"an id is outside the model's vocabulary of {limit}")
    with np.errstate(over="ignore"):
        is_good_O = np.isfinite(logprobs_O.astype(np.float32)) & (logprobs_O <= LOGPROB_SLACK)
    if not is_good_O.all():
        raise _Wrong("a log-prob is not finite or above zero")


def _check_number(num_ids: int, meta: _Meta, room: int) -> None:
    """Of tokens: as many as were asked for, at the most, and none only from a request that was aborted."""
    if num_ids > room:
        raise _Wrong(f"{num_ids} tokens, asked for at most {room}")
    if not num_ids and meta.finish_reason.type is not FinishReason.ABORT and room:
        raise _Wrong("no token, and it was not aborted")


def _spans(meta: _Meta, num_sampled: int, num_forced: int) -> tuple[VersionSpan, ...]:
    """The reply's spans, behind the forced tokens; a server too old to send any has one version for the whole."""
    spans = meta.weight_versions
    if not spans and num_sampled and meta.weight_version is not None:
        spans = [_Span(version=meta.weight_version, start=0, end=num_sampled)]
    edges = [0] + [span.end for span in spans]
    if [span.start for span in spans] != edges[:-1] or edges[-1] != num_sampled:
        raise _Wrong(f"weight_versions do not cover the {num_sampled} output tokens")
    return tuple(
        VersionSpan(version=span.version, start=num_forced + span.start, end=num_forced + span.end) for span in spans
    )


def _completion(
    request: RolloutRequest, meta: _Meta, ids_O: np.ndarray, logprobs_O: np.ndarray, spans: tuple[VersionSpan, ...]
) -> Completion:
    """The forced tokens and behind them the sampled ones."""
    num_forced = len(request.forced_ids)
    is_stopped = len(ids_O) > 0 and int(ids_O[-1]) in request.sampling.stop_token_ids
    return Completion(
        rid=request.rid,
        output_ids=np.concatenate([request.forced_ids, ids_O.astype(np.int32)]),
        logprobs=np.concatenate([np.zeros(num_forced, np.float32), logprobs_O.astype(np.float32)]),
        sampled=np.arange(num_forced + len(ids_O)) >= num_forced,
        # sglang looks at the length first, and calls a stop token on the cap "length"; an abort may meet one, too
        finish_reason=FinishReason.STOP if is_stopped else meta.finish_reason.type,
        weight_versions=spans,
    )
