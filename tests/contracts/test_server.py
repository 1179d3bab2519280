"""The HTTP contract of a rollout server, as SGLang 0.5.23 keeps it, over plain HTTP.

Runs against the embedded server, and with EGRC_CONTRACT_SERVER=sglang against the real one (scripts/test_sglang.sh).
What the embedded server promises beyond SGLang is marked. Not covered: optional endpoints, which it answers with 404.
"""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.wire import generation_body, parse_generation
from egrc_mega.testing.http import call, call_all
from egrc_mega.testing.samples import masks_in
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, token_array

PROMPT = [1, 5, 9, 12]
IS_EMBEDDED = os.environ.get("EGRC_CONTRACT_SERVER", "embedded") == "embedded"
LONG = 200 if IS_EMBEDDED else 600
"""Tokens of a request that is still under way when a test has seen its first ones: seconds of SGLang's time."""
embedded_only = pytest.mark.skipif(not IS_EMBEDDED, reason="the embedded server promises more than SGLang")


def request(**changes: Any) -> dict[str, Any]:
    sampling = {"max_new_tokens": 12, "temperature": 1.0, "sampling_seed": 7, "ignore_eos": True}
    sampling |= changes.pop("sampling_params", {})
    return {"input_ids": PROMPT, "sampling_params": sampling, "return_logprob": True} | changes


def generate(server: str, **changes: Any) -> dict[str, Any]:
    status, reply = call(server + "/generate", request(**changes))
    assert status == 200, reply
    return reply


def wanted(**changes: Any) -> RolloutRequest:
    """A request as a run makes it."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=12, stop_token_ids=())
    asked = RolloutRequest(rid="ours", prompt_id="p", prompt_ids=token_array(PROMPT), sampling=sampling, seed=7)
    return replace(asked, **changes)


def complete(server: str, asked: RolloutRequest) -> Completion:
    """What our own client makes of the server's answer."""

    async def ask() -> Completion:
        async with await open_session() as session:
            return await ServerClient(session, server, 60.0).generate(asked)

    return asyncio.run(ask())


def outcome(reply: dict[str, Any]) -> tuple[list[int], list[list[float]]]:
    return reply["output_ids"], reply["meta_info"]["output_token_logprobs"]


def same(a: tuple[list[int], list[list[float]]], b: tuple[list[int], list[list[float]]]) -> bool:
    """The same tokens; log-probs bit by bit, or of SGLang, whose CPU kernels depend on the batch, to rounding."""
    if IS_EMBEDDED or a[0] != b[0]:
        return a == b
    return all(abs(x[0] - y[0]) <= 1e-5 for x, y in zip(a[1], b[1], strict=True))


@pytest.mark.every_server
def test_a_reply_has_the_fields_that_a_trainer_reads(server: str) -> None:
    reply = generate(server, rid="mine")
    meta = reply["meta_info"]
    assert meta["id"] == "mine"
    assert meta["finish_reason"] == {"type": "length", "length": 12}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (4, 12)
    assert meta["weight_version"] == "a"
    assert meta["weight_versions"] == [{"version": "a", "start": 0, "end": 12}]
    assert len(reply["output_ids"]) == meta["output_token_logprobs_length"] == 12
    assert [row[1] for row in meta["output_token_logprobs"]] == reply["output_ids"]
    assert all(row[0] <= 0 and row[2] is None for row in meta["output_token_logprobs"])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_log_probs_are_those_of_transformers_at_that_temperature(
    server: str, model_a: Path, temperature: float
) -> None:
    from transformers import AutoModelForCausalLM

    reply = generate(server, sampling_params={"temperature": temperature, "top_p": 0.8})
    model = AutoModelForCausalLM.from_pretrained(model_a)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + reply["output_ids"]])).logits[0, len(PROMPT) - 1 : -1]
    logp = torch.log_softmax(logits / temperature, -1)
    expected = logp.gather(1, torch.tensor(reply["output_ids"])[:, None])[:, 0]
    found = torch.tensor([row[0] for row in reply["meta_info"]["output_token_logprobs"]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_greedy_takes_the_likeliest_token_and_reports_temperature_one(server: str, model_a: Path) -> None:
    from transformers import AutoModelForCausalLM

    reply = generate(server, sampling_params={"temperature": 0.0})
    model = AutoModelForCausalLM.from_pretrained(model_a)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + reply["output_ids"]])).logits[0, len(PROMPT) - 1 : -1]
    assert logits.argmax(-1).tolist() == reply["output_ids"]
    best = torch.log_softmax(logits, -1).max(-1).values
    found = torch.tensor([row[0] for row in reply["meta_info"]["output_token_logprobs"]])
    torch.testing.assert_close(found, best, rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_tokens_bitwise_in_any_company_and_order(server: str) -> None:
    bodies = [
        request(input_ids=PROMPT[: 1 + i % 4] * (1 + i % 9), sampling_params={"sampling_seed": i}) for i in range(40)
    ]
    together = [outcome(reply) for _status, reply in call_all(server + "/generate", bodies)]
    backwards = [outcome(reply) for _status, reply in call_all(server + "/generate", bodies[::-1])][::-1]
    alone = [outcome(call(server + "/generate", body)[1]) for body in bodies[::8]]
    assert all(same(a, b) for a, b in zip(together, backwards, strict=True))
    assert all(same(a, b) for a, b in zip(together[::8], alone, strict=True))
    assert len({tuple(ids) for ids, _logprobs in together}) > 35


@embedded_only
def test_requests_that_arrive_together_are_computed_together(server: str) -> None:
    def counters() -> tuple[int, int]:
        state = call(server + "/server_info")[1]["internal_states"][0]
        return state["num_steps"], state["num_tokens"]

    def num_waiting() -> int:
        return int(call(server + "/v1/loads")[1]["loads"][0]["num_waiting_reqs"])

    steps, tokens = counters()
    bodies = [request(sampling_params={"sampling_seed": i, "max_new_tokens": 20}) for i in range(64)]
    # however long a busy machine takes to bring them, they are there together
    pause(server, "in_place")
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(call_all, server + "/generate", bodies)
        while num_waiting() < 64:
            time.sleep(0.01)
        assert call(server + "/continue_generation", {})[0] == 200
        assert all(status == 200 for status, _reply in replies.result())
    more_steps, more_tokens = counters()
    assert (more_steps - steps, more_tokens - tokens) == (20, 64 * 20)


def test_the_distribution_is_the_softmax(server: str, model_a: Path) -> None:
    from transformers import AutoModelForCausalLM

    bodies = [request(sampling_params={"sampling_seed": i, "max_new_tokens": 1}) for i in range(1500)]
    counts = torch.zeros(40)
    for start in range(0, len(bodies), 300):
        for _status, reply in call_all(server + "/generate", bodies[start : start + 300]):
            counts[reply["output_ids"][0]] += 1
    with torch.no_grad():
        p = AutoModelForCausalLM.from_pretrained(model_a)(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    deviation = (counts - 1500 * p) / (1500 * p * (1 - p)).sqrt()
    assert float(deviation.abs().max()) < 4.5


def test_top_p_and_top_k_cut_the_tail(server: str) -> None:
    likeliest = generate(server, sampling_params={"temperature": 0.0, "max_new_tokens": 1})["output_ids"]
    for cut in ({"top_k": 1}, {"top_p": 1e-6}):
        for seed in range(5):
            params = {"sampling_seed": seed, "max_new_tokens": 1, **cut}
            assert generate(server, sampling_params=params)["output_ids"] == likeliest


@pytest.mark.parametrize(("top_p", "top_k"), [(0.7, 12), (1.0, 3), (0.9, 4096)])
def test_a_token_comes_with_what_it_was_drawn_from_and_its_log_prob_among_that(
    server: str, model_a: Path, top_p: float, top_k: int
) -> None:
    from transformers import AutoModelForCausalLM

    sampling, num_tokens = replace(wanted().sampling, temperature=0.8, top_p=top_p, top_k=top_k), 0
    model = AutoModelForCausalLM.from_pretrained(model_a)
    for seed in range(6):
        found = complete(server, wanted(sampling=sampling, seed=seed))
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT + found.output_ids.tolist()])).logits[0, len(PROMPT) - 1 : -1]
        masks = masks_in(found.sampling_mask)
        assert masks is not None and len(masks) == len(found.output_ids)
        for row, mask, token, logprob in zip(logits, masks, found.output_ids.tolist(), found.logprobs, strict=True):
            likeliest, order = torch.softmax(row.double() / 0.8, -1).sort(descending=True)
            before = likeliest.cumsum(0) - likeliest
            size = int(((before < top_p) & (torch.arange(len(row)) < top_k)).sum())
            assert sorted(mask) == sorted(order[:size].tolist()) and token in mask
            expected = torch.log_softmax(row[mask] / 0.8, -1)[mask.index(token)]
            assert float(logprob) == pytest.approx(float(expected), abs=1e-5)
            num_tokens += 1
    assert num_tokens >= 10


def test_a_mask_without_a_bound_is_refused(server: str) -> None:
    for params in ({"top_p": 0.9}, {"top_p": 0.9, "top_k": 5000}):
        status, reply = call(server + "/generate", request(return_sampling_mask=True, sampling_params=params))
        assert status == 400 and "top_k" in str(reply)


def test_a_matched_stop_token_is_part_of_the_output(server: str) -> None:
    # SGLang reads ignore_eos as: ignore every stop token
    free = generate(server, sampling_params={"ignore_eos": False})["output_ids"]
    stop = free[5]
    reply = generate(server, sampling_params={"stop_token_ids": [stop], "ignore_eos": False})
    first = free.index(stop)
    assert reply["output_ids"] == free[: first + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert reply["meta_info"]["completion_tokens"] == first + 1


def test_a_stop_token_on_the_cap_finishes_the_response(server: str) -> None:
    free = generate(server, sampling_params={"ignore_eos": False})["output_ids"]
    first = free.index(free[5])
    params = {"stop_token_ids": [free[5]], "ignore_eos": False, "max_new_tokens": first + 1}
    raw = generate(server, sampling_params=params)
    assert raw["output_ids"] == free[: first + 1]
    if IS_EMBEDDED:  # SGLang looks at the length first, and says "length"
        assert raw["meta_info"]["finish_reason"] == {"type": "stop", "matched": free[5]}
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=first + 1, stop_token_ids=(free[5],))
    completion = complete(server, wanted(sampling=sampling))
    assert completion.output_ids.tolist() == free[: first + 1]
    assert completion.finish_reason is FinishReason.STOP


@pytest.mark.every_server
def test_forced_tokens_are_read_before_the_first_sampled_one_and_count_in_the_cap(server: str) -> None:
    completion = complete(server, wanted(forced_ids=token_array([3, 4])))
    assert completion.output_ids.tolist()[:2] == [3, 4]
    assert completion.sampled.tolist() == [False, False, *[True] * (len(completion.output_ids) - 2)]
    assert len(completion.output_ids) <= 12
    assert [(s.version, s.start) for s in completion.weight_versions] == [("a", 2)]
    sampling = replace(wanted().sampling, max_new_tokens=10)
    as_prompt = complete(server, wanted(prompt_ids=token_array([*PROMPT, 3, 4]), sampling=sampling))
    assert completion.output_ids.tolist()[2:] == as_prompt.output_ids.tolist()


@pytest.mark.every_server
def test_every_sampling_parameter_that_we_send_is_taken_and_changes_nothing_where_it_is_neutral(server: str) -> None:
    bare = {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 12, "stop_token_ids": [], "sampling_seed": 5}
    expected = call(server + "/generate", {"input_ids": PROMPT, "sampling_params": bare, "rid": "bare"})
    assert expected[0] == 200, expected
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=12, stop_token_ids=())
    assert complete(server, wanted(sampling=sampling, seed=5)).output_ids.tolist() == expected[1]["output_ids"]


def test_the_end_of_sequence_stops_unless_it_is_ignored(server: str) -> None:
    def ended(seed: int) -> bool:
        params = {"ignore_eos": False, "max_new_tokens": 100, "sampling_seed": seed}
        reply = generate(server, sampling_params=params)
        return reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": 25} and reply["output_ids"][-1] == 25

    assert any(ended(seed) for seed in range(5))


def test_a_batch_is_answered_with_a_list_in_order(server: str) -> None:
    status, replies = call(server + "/generate", request(input_ids=[PROMPT, [3, 4]], rid=["x", "y"]))
    assert status == 200
    assert [reply["meta_info"]["id"] for reply in replies] == ["x", "y"]
    assert same(outcome(replies[0]), outcome(generate(server)))


@embedded_only  # an unknown input id ends the real server: the client checks ids before it sends them
@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"input_ids": [40]}, "input id [40]"),
        ({"input_ids": [-1]}, "input id [-1]"),
        ({"input_ids": []}, "input_ids"),
        ({"input_ids": "text"}, "input_ids"),
        ({"stream": True}, "streaming"),
        ({"sampling_params": {"max_new_tokens": 4000}}, "context length"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_server_lives(server: str, changes: dict, part: str) -> None:
    status, reply = call(server + "/generate", request(**changes))
    assert status == 400
    assert part in reply["error"]["message"]
    assert generate(server)["meta_info"]["completion_tokens"] == 12


@pytest.mark.parametrize(
    "params",
    [
        {"temperatur": 1.0},
        {"temperature": -1},
        {"top_p": 0},
        {"max_new_tokens": -3},
        pytest.param({"n": 2}, marks=embedded_only),
        pytest.param({"min_p": 0.1}, marks=embedded_only),
        pytest.param({"min_new_tokens": 3}, marks=embedded_only),
        pytest.param({"frequency_penalty": 0.5}, marks=embedded_only),
        pytest.param({"presence_penalty": 0.5}, marks=embedded_only),
        pytest.param({"repetition_penalty": 1.1}, marks=embedded_only),
        {"top_k": 0},
    ],
)
def test_bad_sampling_parameters_are_refused_by_name(server: str, params: dict) -> None:
    status, reply = call(server + "/generate", request(sampling_params=params))
    assert status == 400
    assert next(iter(params)) in str(reply["error"])


def test_broken_json_unknown_routes_and_methods_get_sglangs_bodies(server: str) -> None:
    status, reply = call(server + "/generate", b"{not json")
    assert (status, reply["object"], reply["type"]) == (400, "error", "Bad Request")
    assert call(server + "/no_such_route") == (404, {"detail": "Not Found"})
    assert call(server + "/generate", method="DELETE") == (405, {"detail": "Method Not Allowed"})


@pytest.mark.every_server
def test_a_server_that_may_be_used_says_so_and_what_it_serves(server: str) -> None:
    assert call(server + "/health") == (200, None)
    assert call(server + "/model_info")[1]["weight_version"] == "a"
    body = {"model_path": "/nowhere", "weight_version": "b"}
    if call(server + "/update_weights_from_disk", body)[0] == 200:  # only who makes things up finds a model there
        assert call(server + "/model_info")[1]["weight_version"] == "b"


def test_health_and_infos_answer(server: str) -> None:
    assert call(server + "/health") == (200, None)
    info = call(server + "/model_info")[1]
    assert (info["weight_version"], info["architectures"]) == ("a", ["Qwen2ForCausalLM"])
    if IS_EMBEDDED:
        assert call(server + "/server_info")[1]["vocab_size"] == 40


def test_new_weights_are_served_under_their_version(server: str, model_b: Path) -> None:
    before = generate(server)
    status, reply = call(server + "/update_weights_from_disk", {"model_path": str(model_b), "weight_version": "b"})
    assert (status, reply["success"]) == (200, True)
    assert call(server + "/model_info")[1]["weight_version"] == "b"
    after = generate(server)
    assert after["meta_info"]["weight_version"] == "b"
    assert outcome(after) != outcome(before)


@embedded_only  # SGLang takes a checkpoint that lacks a tensor, and answers success
def test_weights_that_do_not_fit_leave_the_old_ones_whole(server: str, model_b: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = generate(server)
    tensors = load_file(model_b / "model.safetensors")
    last = sorted(tensors)[-1]
    damaged = {
        "missing": {k: v for k, v in tensors.items() if k != last},
        "unknown": tensors | {"model.extra": torch.zeros(1)},
        "shaped": tensors | {last: torch.zeros(3)},
    }
    for name, content in damaged.items():
        (tmp_path / name).mkdir()
        save_file(content, tmp_path / name / "model.safetensors")
    for path in [*(tmp_path / name for name in damaged), tmp_path / "nowhere"]:
        body = {"model_path": str(path), "weight_version": "c"}
        status, reply = call(server + "/update_weights_from_disk", body)
        assert (status, reply["success"]) == (400, False)
        assert call(server + "/model_info")[1]["weight_version"] == "a"
    assert outcome(generate(server)) == outcome(before)


class InBackground:
    """A long request that runs while the test does something else."""

    def __init__(self, server: str, rid: str, tokens: int = LONG, body: dict[str, Any] | None = None) -> None:
        body = body or request(rid=rid, sampling_params={"max_new_tokens": tokens})
        self.reply: dict[str, Any] = {}
        self.server = server
        self._start = self._num_tokens()
        self._thread = threading.Thread(target=lambda: self.reply.update(call(server + "/generate", body)[1]))
        self._thread.start()

    def _num_tokens(self) -> int:
        """Of all that is under way; SGLang counts prompts, too."""
        if IS_EMBEDDED:
            return int(call(self.server + "/server_info")[1]["internal_states"][0]["num_tokens"])
        return sum(load["num_used_tokens"] for load in call(self.server + "/v1/loads")[1]["loads"])

    def wait_for_tokens(self, count: int) -> None:
        deadline, own = time.monotonic() + 20, count if IS_EMBEDDED else len(PROMPT) + count
        while self._num_tokens() < self._start + own:
            assert time.monotonic() < deadline, "nothing is generated"

    def result(self) -> dict[str, Any]:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the request was never answered"
        return self.reply


def pause(server: str, mode: str) -> None:
    assert call(server + "/pause_generation", {"mode": mode}) == (
        200,
        {"message": "Generation paused successfully.", "status": "ok"},
    )


def test_an_update_in_flight_gives_two_version_spans(server: str, model_b: Path) -> None:
    running = InBackground(server, "in-flight")
    running.wait_for_tokens(5)
    pause(server, "retract")
    assert call(server + "/flush_cache", {})[0] == 200
    body = {"model_path": str(model_b), "weight_version": "b"}
    assert call(server + "/update_weights_from_disk", body)[0] == 200
    assert call(server + "/continue_generation", {})[0] == 200
    meta = running.result()["meta_info"]
    first, second = meta["weight_versions"]
    assert (first["version"], second["version"], meta["weight_version"]) == ("a", "b", "b")
    assert (first["start"], second["end"]) == (0, LONG)
    assert first["end"] == second["start"] >= 5
    assert meta["num_retractions"] == 1


def test_a_retracted_request_goes_on_as_if_nothing_had_happened(server: str) -> None:
    whole = generate(server, sampling_params={"max_new_tokens": LONG})["output_ids"]
    running = InBackground(server, "retracted")
    running.wait_for_tokens(5)
    pause(server, "retract")
    assert call(server + "/continue_generation", {})[0] == 200
    assert running.result()["output_ids"] == whole


@pytest.mark.parametrize("mode", ["abort", "retract"])
def test_what_was_aborted_has_no_token_without_its_sampling_mask(server: str, mode: str) -> None:
    """A retracted request waits in the queue, and SGLang forgets the masks of what it aborts there."""
    asked = wanted(rid="cut-short", sampling=replace(wanted().sampling, max_new_tokens=LONG, top_k=5))
    body = generation_body(asked) | {"input_ids": PROMPT}
    body["sampling_params"]["ignore_eos"] = True
    running = InBackground(server, "cut-short", body=body)
    running.wait_for_tokens(5 if IS_EMBEDDED else 60)  # SGLang tells of every fiftieth token only
    pause(server, mode)
    assert call(server + "/abort_request", {"abort_all": True})[0] == 200
    assert call(server + "/continue_generation", {})[0] == 200
    reply = running.result()
    found, usage = parse_generation(reply, asked, server)
    assert (found.finish_reason, usage.output) == (FinishReason.ABORT, len(reply["output_ids"]))
    is_kept = IS_EMBEDDED or mode == "abort"
    assert len(found.output_ids) == (len(reply["output_ids"]) if is_kept else 0)
    assert len(masks_in(found.sampling_mask) or []) == len(found.output_ids)


def test_paused_in_place_requests_keep_their_cache_and_flushing_is_refused(server: str, model_b: Path) -> None:
    running = InBackground(server, "in-place")
    running.wait_for_tokens(5)
    pause(server, "in_place")
    assert call(server + "/flush_cache", {})[0] == 400
    body = {"model_path": str(model_b), "weight_version": "b"}
    status, reply = call(server + "/update_weights_from_disk", body)
    assert (status, reply["success"]) == (400, False)
    assert "not flushed" in reply["message"]
    if IS_EMBEDDED:  # SGLang's model_info keeps the old name, although tokens carry the new one
        assert call(server + "/model_info")[1]["weight_version"] == "b"
    assert call(server + "/continue_generation", {})[0] == 200
    meta = running.result()["meta_info"]
    assert [span["version"] for span in meta["weight_versions"]] == ["a", "b"]
    assert meta["num_retractions"] == 0


@pytest.mark.every_server
def test_while_paused_new_requests_wait(server: str) -> None:
    pause(server, "retract")
    waiting = InBackground(server, "waits", tokens=3)
    # SGLang's health generates a token, which a paused server does not
    assert call(server + "/health")[0] == 503
    assert waiting.reply == {}
    assert call(server + "/continue_generation", {})[0] == 200
    assert waiting.result()["meta_info"]["completion_tokens"] == 3


def test_callers_that_hang_up_harm_nobody(server: str, model_a: Path) -> None:
    running = InBackground(server, "goes-on")
    running.wait_for_tokens(5)
    update = {"model_path": str(model_a), "weight_version": "a"}  # waits for the running request
    for path, body in (("/update_weights_from_disk", update), ("/health", None), ("/generate", request(rid="unheard"))):
        with suppress(TimeoutError):  # a busy machine may be quicker
            call(server + path, body, timeout_s=0.01)
    assert running.result()["meta_info"]["completion_tokens"] == LONG
    assert len(generate(server)["output_ids"]) == 12
    assert call(server + "/health")[0] == 200


def test_pause_with_abort_returns_what_there_is(server: str) -> None:
    running = InBackground(server, "aborted-by-pause")
    running.wait_for_tokens(5)
    pause(server, "abort")
    reply = running.result()
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"
    assert 5 <= len(reply["output_ids"]) < LONG
    assert len(reply["output_ids"]) == len(reply["meta_info"]["output_token_logprobs"])


def test_abort_ends_the_named_request_only(server: str) -> None:
    one, other = InBackground(server, "one"), InBackground(server, "other")
    one.wait_for_tokens(5)
    assert call(server + "/abort_request", {"rid": "one"}) == (200, None)
    assert call(server + "/abort_request", {"rid": "nobody"}) == (200, None)
    assert one.result()["meta_info"]["finish_reason"]["type"] == "abort"
    assert other.result()["meta_info"]["finish_reason"]["type"] == "length"


def test_a_duplicate_request_id_is_refused_while_the_first_runs(server: str) -> None:
    running = InBackground(server, "twice")
    running.wait_for_tokens(1)
    status, reply = call(server + "/generate", request(rid="twice"))
    assert status == 400
    assert "Duplicate request ID" in reply["error"]["message"]
    assert call(server + "/abort_request", {"rid": "twice"})[0] == 200
    running.result()


def test_an_update_without_a_pause_waits_for_running_requests(server: str, model_b: Path) -> None:
    running = InBackground(server, "finishes-first")
    running.wait_for_tokens(5)
    assert call(server + "/update_weights_from_disk", {"model_path": str(model_b), "weight_version": "b"})[0] == 200
    meta = running.result()["meta_info"]
    assert meta["weight_versions"] == [{"version": "a", "start": 0, "end": LONG}]
