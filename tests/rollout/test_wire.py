"""Every unusable reply is refused, naming the server, the request and the fault."""

import copy
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.wire import Usage, parse_generation
from egrc_mega.testing.samples import PROMPT
from egrc_mega.types import FinishReason, RolloutRequest, Sampling, VersionSpan

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=3, stop_token_ids=(2,))
REQUEST = RolloutRequest(rid="r1", prompt=PROMPT, sampling=SAMPLING, seed=0)
GOOD: dict[str, Any] = {
    "text": "ignored",
    "output_ids": [5, 6, 2],
    "meta_info": {
        "id": "r1",
        "finish_reason": {"type": "stop", "matched": 2},
        "completion_tokens": 3,
        "weight_version": "v2",
        "weight_versions": [{"version": "v1", "start": 0, "end": 1}, {"version": "v2", "start": 1, "end": 3}],
        "output_token_logprobs": [[-0.5, 5, None], [-1.5, 6, None], [0.0, 2, None]],
        "something_new": 1,
    },
}


def test_a_good_reply_becomes_a_completion() -> None:
    completion, usage = parse_generation(GOOD, REQUEST, "http://s")
    assert completion.output_ids == (5, 6, 2)
    assert completion.logprobs == (-0.5, -1.5, 0.0)
    assert completion.mask == (1, 1, 1)
    assert completion.finish_reason is FinishReason.STOP
    assert usage == Usage(prompt=0, cached=0, output=3)
    assert completion.weight_versions[1] == VersionSpan(version="v2", start=1, end=3)


def test_a_server_without_spans_has_one_version_for_the_whole_output() -> None:
    reply = copy.deepcopy(GOOD)
    del reply["meta_info"]["weight_versions"]
    assert parse_generation(reply, REQUEST, "http://s")[0].weight_versions == (
        VersionSpan(version="v2", start=0, end=3),
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("output_ids",), [5, 6]),
        (("output_ids",), "text"),
        (("output_ids",), [5, 7, 2]),
        (("output_ids",), [5, 6.5, 2]),
        (("meta_info",), None),
        (("meta_info", "id"), "r2"),
        (("meta_info", "completion_tokens"), 4),
        (("meta_info", "finish_reason"), None),
        (("meta_info", "finish_reason", "type"), "tired"),
        (("meta_info", "output_token_logprobs"), [[-0.5, 5, None]]),
        (("meta_info", "output_token_logprobs", 1, 0), None),
        (("meta_info", "output_token_logprobs", 1, 0), float("nan")),
        (("meta_info", "output_token_logprobs", 1, 0), float("-inf")),
        (("meta_info", "output_token_logprobs", 1, 0), 0.7),
        (("meta_info", "weight_versions", 1, "start"), 2),
        (("meta_info", "weight_versions"), [{"version": "v1", "start": 0, "end": 2}]),
    ],
)
def test_a_bad_reply_is_refused_by_name(path: tuple, value: Any) -> None:
    reply = copy.deepcopy(GOOD)
    target = reply
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(RolloutError, match="reply of http://s to request r1 is unusable"):
        parse_generation(reply, REQUEST, "http://s")


@pytest.mark.parametrize("reply", [[], [GOOD], None, "x", {"error": {"message": "no"}}])
def test_something_else_than_an_object_is_refused(reply: Any) -> None:
    with pytest.raises(RolloutError, match="unusable"):
        parse_generation(reply, REQUEST, "http://s")


def test_an_id_beyond_the_vocabulary_is_refused() -> None:
    assert parse_generation(GOOD, REQUEST, "http://s", vocab_size=7)[0].output_ids == (5, 6, 2)
    with pytest.raises(RolloutError, match="an id is outside the model's vocabulary of 6"):
        parse_generation(GOOD, REQUEST, "http://s", vocab_size=6)


def test_more_tokens_than_asked_for_are_refused() -> None:
    request = RolloutRequest(
        rid="r1",
        prompt=PROMPT,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=2, stop_token_ids=()),
        seed=0,
    )
    with pytest.raises(RolloutError, match="3 tokens, asked for at most 2"):
        parse_generation(GOOD, request, "http://s")
