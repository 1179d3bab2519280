"""What is sent is what was configured, and every unusable reply is refused, naming the server, request and fault."""

import copy
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import orjson
import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.wire import NEUTRAL, Usage, generation_body, parse_generation, read_generation
from egrc_mega.testing.samples import PROMPT_IDS, masks_in
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, VersionSpan, token_array

SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=4, stop_token_ids=(2,))
REQUEST = RolloutRequest(rid="r1", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=9)
FORCED = replace(REQUEST, forced_ids=token_array([30, 31]), sampling=replace(SAMPLING, max_new_tokens=6))
GOOD: dict[str, Any] = {
    "text": "a row's edge ],[ within a text",
    "output_ids": [5, 6, 1, 2],
    "meta_info": {
        "id": "r1",
        "finish_reason": {"type": "stop", "matched": 2},
        "completion_tokens": 4,
        "weight_version": "v2",
        "weight_versions": [{"version": "v1", "start": 0, "end": 1}, {"version": "v2", "start": 1, "end": 4}],
        "output_token_logprobs": [[-0.5, 5, None], [-1.5, 6, None], [-0.125, 1, None], [0.0, 2, None]],
        "something_new": 1,
    },
}
COMPACT, SPACED = orjson.dumps, lambda reply: json.dumps(reply).encode()
"""As SGLang and the embedded server write JSON, and as a stranger may."""


def parsed(raw: bytes, request: RolloutRequest = REQUEST, vocab_size: int | None = None) -> tuple[Completion, Usage]:
    return parse_generation(read_generation(raw), request, "http://s", vocab_size)


def changed(path: tuple, value: Any) -> dict[str, Any]:
    reply = copy.deepcopy(GOOD)
    target = reply
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return reply


@pytest.mark.parametrize("dumps", [COMPACT, SPACED])
def test_a_good_reply_becomes_a_completion_of_arrays(dumps) -> None:
    completion, usage = parsed(dumps(GOOD))
    assert (completion.output_ids.dtype, completion.output_ids.tolist()) == (np.int32, [5, 6, 1, 2])
    assert (completion.logprobs.dtype, completion.logprobs.tolist()) == (np.float32, [-0.5, -1.5, -0.125, 0.0])
    assert (completion.sampled.dtype, completion.sampled.tolist()) == (np.bool_, [True] * 4)
    assert completion.finish_reason is FinishReason.STOP
    assert usage == Usage(prompt=0, cached=0, output=4)
    assert completion.weight_versions[1] == VersionSpan(version="v2", start=1, end=4)


def test_rows_are_read_as_one_list_and_a_text_is_not_taken_for_their_edges() -> None:
    reply = read_generation(COMPACT(GOOD))
    [cells] = reply["meta_info"]["output_token_logprobs"]
    assert cells == [-0.5, 5, None, -1.5, 6, None, -0.125, 1, None, 0.0, 2, None]
    assert reply["output_ids"] == GOOD["output_ids"]
    assert reply["meta_info"]["weight_versions"] == GOOD["meta_info"]["weight_versions"]


def test_log_probs_lose_no_bit_of_the_float32_that_the_server_had() -> None:
    logprobs = -np.random.default_rng(0).exponential(1.0, 3000).astype(np.float32)
    rows = [[value, i, None] for i, value in enumerate(logprobs.tolist())]
    meta = {"id": "r1", "finish_reason": {"type": "length"}, "completion_tokens": 3000, "weight_version": "v"}
    reply = {"output_ids": list(range(3000)), "meta_info": meta | {"output_token_logprobs": rows}}
    request = replace(REQUEST, sampling=replace(SAMPLING, max_new_tokens=3000))
    for raw in (COMPACT(reply), SPACED(reply)):
        completion, _usage = parsed(raw, request)
        assert completion.logprobs.tobytes() == logprobs.tobytes()
        assert completion.output_ids.tolist() == list(range(3000))


def test_a_server_without_spans_has_one_version_for_the_whole_output() -> None:
    reply = copy.deepcopy(GOOD)
    del reply["meta_info"]["weight_versions"]
    assert parsed(COMPACT(reply))[0].weight_versions == (VersionSpan(version="v2", start=0, end=4),)


def test_a_request_aborted_in_a_queue_may_lack_everything_but_its_end() -> None:
    reply = {"output_ids": [], "meta_info": {"id": "r1", "finish_reason": {"type": "abort"}}}
    completion, _usage = parsed(COMPACT(reply))
    assert (completion.output_ids.tolist(), completion.finish_reason) == ([], FinishReason.ABORT)
    assert (completion.output_ids.dtype, completion.logprobs.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("said", ["stop", "length"])
def test_a_reply_without_a_token_that_was_not_aborted_is_refused(said: str) -> None:
    meta = {"id": "r1", "finish_reason": {"type": said}, "completion_tokens": 0, "weight_version": "v"}
    with pytest.raises(RolloutError, match="no token, and it was not aborted"):
        parsed(COMPACT({"output_ids": [], "meta_info": meta}))


def test_a_replys_cost_is_its_prompt_what_of_that_was_cached_and_its_output() -> None:
    reply = changed(("meta_info", "prompt_tokens"), 30)
    reply["meta_info"]["cached_tokens"] = 20
    assert parsed(COMPACT(reply))[1] == Usage(prompt=30, cached=20, output=4)
    assert parsed(COMPACT(GOOD))[1] == Usage(prompt=0, cached=0, output=4)
    assert Usage(30, 20, 4) + Usage(1, 2, 3) == Usage(31, 22, 7)
    assert Usage(30, 20, 4) - Usage(1, 2, 3) == Usage(29, 18, 1)


INTEGER, NUMBER, ROWS = "Input should be a valid integer", "Input should be a valid number", "output_token_logprobs"
BAD = [
    (("output_ids",), [5, 6], "2 ids, 4 log-probs, 4 tokens claimed"),
    (("output_ids",), "text", "output_ids: Input should be a valid list"),
    (("output_ids",), None, "output_ids: Input should be a valid list"),
    (("output_ids",), [5, 7, 1, 2], "log-probs belong to other tokens than output_ids"),
    (("output_ids",), [5, 6.5, 1, 2], f"output_ids.1: {INTEGER}"),
    (("output_ids",), [5, 6.0, 1, 2], f"output_ids.1: {INTEGER}"),
    (("output_ids",), [5, 6, True, 2], f"output_ids.2: {INTEGER}"),
    (("output_ids",), [5, 6, 1, "2"], f"output_ids.3: {INTEGER}"),
    (("output_ids",), [5, 6, 1, None], f"output_ids.3: {INTEGER}"),
    (("output_ids",), [5, 6, [1], 2], f"output_ids.2: {INTEGER}"),
    (("output_ids",), [[5], [6], [1], [2]], f"output_ids.0: {INTEGER}"),
    (("meta_info",), None, "meta_info: "),
    (("meta_info", "id"), "r2", "it answers request r2"),
    (("meta_info", "completion_tokens"), 5, "4 ids, 4 log-probs, 5 tokens claimed"),
    (("meta_info", "completion_tokens"), True, f"meta_info.completion_tokens: {INTEGER}"),
    (("meta_info", "finish_reason"), None, "meta_info.finish_reason: "),
    (("meta_info", "finish_reason", "type"), "tired", "meta_info.finish_reason.type: "),
    (("meta_info", ROWS), [[-0.5, 5, None]], "4 ids, 1 log-probs, 4 tokens claimed"),
    (("meta_info", ROWS), None, "valid list"),
    (("meta_info", ROWS), [1, 2, 3, 4], "valid tuple"),
    (("meta_info", ROWS, 1), [-1.5, 6], "a row has not its three values"),
    (("meta_info", ROWS, 1), [-1.5, 6, None, None], "a row has not its three values"),
    (("meta_info", ROWS, 1, 0), None, f"{NUMBER}"),
    (("meta_info", ROWS, 1, 0), "-1.5", f"{NUMBER}"),
    (("meta_info", ROWS, 1, 0), 0.7, "a log-prob is not finite or above zero"),
    (("meta_info", ROWS, 1, 0), -1e300, "a log-prob is not finite or above zero"),
    (("meta_info", ROWS, 1, 1), 6.0, INTEGER),
    (("meta_info", ROWS, 2, 1), True, INTEGER),
    (("meta_info", ROWS, 1, 2), 6, "valid string or null"),
    (("meta_info", "weight_versions", 1, "start"), 2, "weight_versions do not cover the 4 output tokens"),
    (("meta_info", "weight_versions"), [{"version": "v", "start": 0, "end": 2}], "do not cover the 4 output tokens"),
    (("meta_info", "weight_versions", 0, "end"), 1.0, "meta_info.weight_versions.0.end: "),
]


@pytest.mark.parametrize(("path", "value", "fault"), BAD)
@pytest.mark.parametrize("dumps", [COMPACT, SPACED])
def test_a_bad_reply_is_refused_by_name(path: tuple, value: Any, fault: str, dumps) -> None:
    with pytest.raises(RolloutError, match="reply of http://s to request r1 is unusable: ") as raised:
        parsed(dumps(changed(path, value)))
    assert fault in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_log_probs_that_are_no_finite_numbers_are_refused(value: float) -> None:
    reply = changed(("meta_info", ROWS, 1, 0), value)  # orjson takes no such JSON
    with pytest.raises(RolloutError, match="a log-prob is not finite or above zero"):
        parse_generation(reply, REQUEST, "http://s")


@pytest.mark.parametrize("reply", [[], [GOOD], None, "x", {"error": {"message": "no"}}])
def test_something_else_than_an_object_is_refused(reply: Any) -> None:
    with pytest.raises(RolloutError, match="unusable"):
        parse_generation(reply, REQUEST, "http://s")


@pytest.mark.parametrize(("token", "limit"), [(6, 6), (-1, 7), (2**31, 2**40), (2**40, None)])
def test_an_id_beyond_the_vocabulary_is_refused(token: int, limit: int | None) -> None:
    assert parsed(COMPACT(GOOD), vocab_size=7)[0].output_ids.tolist() == [5, 6, 1, 2]
    reply = changed(("output_ids", 1), token)
    reply["meta_info"][ROWS][1][1] = token
    with pytest.raises(RolloutError, match="an id is outside the model's vocabulary of"):
        parsed(COMPACT(reply), vocab_size=limit)


def test_more_tokens_than_asked_for_are_refused() -> None:
    with pytest.raises(RolloutError, match="4 tokens, asked for at most 3"):
        parsed(COMPACT(GOOD), replace(REQUEST, sampling=replace(SAMPLING, max_new_tokens=3)))
    with pytest.raises(RolloutError, match="4 tokens, asked for at most 3"):
        parsed(COMPACT(GOOD), replace(FORCED, sampling=replace(SAMPLING, max_new_tokens=5)))


@pytest.mark.parametrize("said", ["length", "stop", "abort"])
def test_a_response_that_ends_with_a_stop_token_is_finished_whatever_the_server_calls_its_end(said: str) -> None:
    """On the cap SGLang says "length"; and what is finished must not be continued after an abort."""
    reply = changed(("meta_info", "finish_reason", "type"), said)
    assert parsed(COMPACT(reply))[0].finish_reason is FinishReason.STOP
    other = replace(REQUEST, sampling=replace(SAMPLING, stop_token_ids=(1, 7)))
    assert parsed(COMPACT(reply), other)[0].finish_reason is FinishReason(said)


def test_forced_tokens_stand_first_and_belong_to_no_version() -> None:
    completion, usage = parsed(COMPACT(GOOD), FORCED)
    assert completion.output_ids.tolist() == [30, 31, 5, 6, 1, 2]
    assert completion.logprobs.tolist() == [0.0, 0.0, -0.5, -1.5, -0.125, 0.0]
    assert completion.sampled.tolist() == [False, False, True, True, True, True]
    assert [(s.version, s.start, s.end) for s in completion.weight_versions] == [("v1", 2, 3), ("v2", 3, 6)]
    assert usage.output == 4


def test_what_is_sent_is_the_request_and_every_other_parameter_at_what_changes_nothing() -> None:
    sent = orjson.loads(orjson.dumps(generation_body(FORCED), option=orjson.OPT_SERIALIZE_NUMPY))
    assert sent == {
        "rid": "r1",
        "input_ids": [*PROMPT_IDS.tolist(), 30, 31],
        "return_logprob": True,
        "sampling_params": {
            "temperature": 0.6,
            "top_p": 0.95,
            "max_new_tokens": 4,  # six, of which two are forced
            "stop_token_ids": [2],
            "sampling_seed": 9,
            "top_k": -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "min_new_tokens": 0,
            "ignore_eos": False,
            "n": 1,
        },
    }


OTHER: dict[str, Any] = {
    "rid": "r2",
    "prompt_id": "q",  # says where it goes, and is nobody's business there
    "prompt_ids": token_array([1, 2]),
    "forced_ids": token_array([30]),
    "seed": 10,
}
OTHER_SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 20,
    "max_new_tokens": 5,
    "stop_token_ids": (2, 3),
}


def test_every_field_of_a_request_and_of_its_sampling_is_known_here() -> None:
    assert {field.name for field in fields(RolloutRequest)} == {*OTHER, "sampling"}
    assert {field.name for field in fields(Sampling)} == set(OTHER_SAMPLING)


@pytest.mark.parametrize("name", [*OTHER, *OTHER_SAMPLING])
def test_another_value_of_any_field_is_another_body(name: str) -> None:
    if name in OTHER:
        other = replace(REQUEST, **{name: OTHER[name]})
    else:
        other = replace(REQUEST, sampling=replace(SAMPLING, **{name: OTHER_SAMPLING[name]}))
    sent = [orjson.dumps(generation_body(one), option=orjson.OPT_SERIALIZE_NUMPY) for one in (REQUEST, other)]
    assert (sent[0] == sent[1]) is (name == "prompt_id")


CUT = replace(REQUEST, sampling=replace(SAMPLING, top_k=8))
MASKS, AMONG = [[6, 5], [6], [9, 4, 1], [2, 3]], [-0.25, 0.0, -0.0625, -0.5]
MASK, MASKED = "output_token_sampling_mask", "output_token_sampling_logprobs"


def with_masks(masks: Any = MASKS, among: Any = AMONG) -> dict[str, Any]:
    return GOOD | {"meta_info": GOOD["meta_info"] | {MASK: masks, MASKED: among}}


def cut(
    reply: dict[str, Any], request: RolloutRequest = CUT, vocab_size: int | None = None, dumps=COMPACT
) -> Completion:
    return parsed(dumps(reply), request, vocab_size)[0]


def test_only_a_request_with_top_k_asks_for_the_sampling_masks() -> None:
    body = generation_body(CUT)
    assert (body["sampling_params"]["top_k"], body["return_sampling_mask"]) == (8, True)
    plain = generation_body(REQUEST)
    assert plain["sampling_params"]["top_k"] == NEUTRAL["top_k"] == -1 and "return_sampling_mask" not in plain


@pytest.mark.parametrize("dumps", [COMPACT, SPACED])
def test_sampling_masks_come_with_the_tokens_and_log_probs_are_among_them(dumps) -> None:
    sampling = replace(CUT.sampling, max_new_tokens=5)
    completion = cut(with_masks(), replace(CUT, forced_ids=token_array([30]), sampling=sampling), dumps=dumps)
    assert masks_in(completion.sampling_mask) == [[], *MASKS]
    assert completion.logprobs.tolist() == [0.0, *AMONG]
    assert completion.sampling_mask.token_ids.dtype == completion.sampling_mask.counts.dtype == np.int32
    assert parsed(COMPACT(with_masks()))[0].sampling_mask is None  # nobody has asked


def test_masks_are_read_as_one_list_and_a_single_token_has_one() -> None:
    reply = read_generation(COMPACT(with_masks()))
    assert reply["meta_info"][MASK] == [[6, 5, -1, 6, -1, 9, 4, 1, -1, 2, 3]]
    assert reply["meta_info"][MASKED] == AMONG
    meta = GOOD["meta_info"] | {"completion_tokens": 1, "weight_versions": [], MASK: [[4, 5]], MASKED: [-0.5]}
    single = {"output_ids": [5], "meta_info": meta | {"output_token_logprobs": [[-0.7, 5, None]]}}
    assert masks_in(cut(single).sampling_mask) == [[4, 5]]


def test_a_request_aborted_before_its_first_token_has_no_sampling_mask() -> None:
    reply = {"output_ids": [], "meta_info": {"id": "r1", "finish_reason": {"type": "abort"}}}
    assert cut(reply).sampling_mask is None


def test_tokens_whose_masks_were_lost_in_an_abort_are_left_out_and_paid_for() -> None:
    """SGLang 0.5.23 forgets the masks of a request that waits in its queue again, retracted, when it is aborted."""
    reply = changed(("meta_info", "finish_reason"), {"type": "abort"})
    sampling = replace(CUT.sampling, max_new_tokens=5)
    completion, usage = parsed(COMPACT(reply), replace(CUT, forced_ids=token_array([30]), sampling=sampling))
    assert (completion.output_ids.tolist(), completion.sampled.tolist()) == ([30], [False])
    assert (completion.weight_versions, completion.sampling_mask) == ((), None)
    assert (completion.finish_reason, usage.output) == (FinishReason.ABORT, 4)
    # whoever asked for none has lost none
    assert len(parsed(COMPACT(reply))[0].output_ids) == 4


LIST_OF_LISTS = "output_token_sampling_mask: Input should be a list of lists"
BAD_MASKS = [
    (None, AMONG, "output_token_sampling_mask: missing, and without it rollout.top_k cannot be trained with"),
    (MASKS, None, "output_token_sampling_mask: missing"),
    (7, AMONG, LIST_OF_LISTS),
    ([[6, 5], [6], 1, [2, 3]], AMONG, LIST_OF_LISTS),
    (MASKS[:3], AMONG, "4 ids, 3 sampling masks and 4 log-probs over them"),
    (MASKS, AMONG[:3], "4 ids, 4 sampling masks and 3 log-probs over them"),
    ([*MASKS[:3], []], AMONG, "a token does not stand once in its own mask"),
    ([*MASKS[:3], [3, 4]], AMONG, "a token does not stand once in its own mask"),
    ([*MASKS[:3], [2, 3, 2]], AMONG, "a token does not stand once in its own mask"),
    ([*MASKS[:3], [2, 3, 3]], AMONG, "an id stands twice in a mask"),
    ([*MASKS[:3], [2, 3.0]], AMONG, INTEGER),
    ([*MASKS[:3], [2, True]], AMONG, INTEGER),
    ([*MASKS[:3], [2, None]], AMONG, INTEGER),
    ([*MASKS[:3], [2, [3]]], AMONG, INTEGER),
    ([*MASKS[:3], [2, 10]], AMONG, "outside the model's vocabulary of 10"),
    ([*MASKS[:3], [2, -2]], AMONG, "outside the model's vocabulary of 10"),
    (MASKS, [*AMONG[:3], "0"], "output_token_sampling_logprobs.3.0: Input should be a valid number"),
    (MASKS, [*AMONG[:3], 0.1], "not finite or above zero"),
    (MASKS, [*AMONG[:3], None], "output_token_sampling_logprobs.3.0"),
]


@pytest.mark.parametrize("dumps", [COMPACT, SPACED])
@pytest.mark.parametrize(("masks", "among", "problem"), BAD_MASKS, ids=range(len(BAD_MASKS)))
def test_unusable_sampling_masks_are_refused(masks: Any, among: Any, problem: str, dumps) -> None:
    with pytest.raises(RolloutError, match="reply of http://s to request r1 is unusable") as refusal:
        cut(with_masks(masks, among), vocab_size=10, dumps=dumps)
    assert problem in str(refusal.value)


def test_an_id_may_stand_in_the_masks_of_several_tokens() -> None:
    assert masks_in(cut(with_masks([[6, 5], [6, 5], [6, 5, 1], [6, 2]])).sampling_mask)[2] == [6, 5, 1]
