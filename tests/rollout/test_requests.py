"""What leaves for a server, field by field: plain, with forced tokens, in segments, and after a partial rollout."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.rollout.wire import NEUTRAL, Usage
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.seeds import derive_seed
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, token_array

PROMPT_IDS = [1, 12, 13]
SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=9, stop_token_ids=(2, 4))
REQUEST = RolloutRequest(
    rid="r1", prompt_id="p", prompt_ids=token_array(PROMPT_IDS), sampling=SAMPLING, seed=derive_seed(3, "test")
)
FORCED = replace(REQUEST, forced_ids=token_array([30, 31]))


class Pair:
    """Writes 21 22 after every 7, which the fake server always samples: so each segment has one sampled token."""

    stop_token_ids = (7,)

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], list[int], float]] = []

    def write(self, prompt_ids: np.ndarray, output_ids: np.ndarray, rng: random.Random) -> list[int]:
        self.seen.append((prompt_ids.tolist(), output_ids.tolist(), rng.random()))
        return [21, 22]


def one_token_stops(reply: dict) -> dict:
    """The reply cut after its first token, as a server does that stops there."""
    meta = reply["meta_info"]
    version = {"version": meta["weight_version"], "start": 0, "end": 1}
    changes = {"completion_tokens": 1, "weight_versions": [version], "finish_reason": {"type": "stop", "matched": 7}}
    rows = meta["output_token_logprobs"][:1]
    return reply | {"output_ids": [7], "meta_info": meta | changes | {"output_token_logprobs": rows}}


def of_weights(version: str) -> Callable[[dict], dict]:
    """The reply as if those weights had sampled it."""
    stale = {"weight_versions": [], "weight_version": version}
    return lambda reply: reply | {"meta_info": reply["meta_info"] | stale}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def fleet(fake: FakeServer, tmp_path: Path) -> Iterator[Fleet]:
    section = RolloutSection(server="external", urls=(fake.url,), max_attempts=2)
    with Fleet.start(section, tmp_path, "v0", tmp_path, vocab_size=1000) as attached:
        attached.update_weights(FolderWeights(tmp_path, "v0"))
        yield attached


def sent(rid: str, input_ids: list[int], max_new_tokens: int, seed: int, stops: tuple[int, ...] = (2, 4)) -> dict:
    """The whole body."""
    asked = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": max_new_tokens, "stop_token_ids": list(stops)}
    return {
        "rid": rid,
        "input_ids": input_ids,
        "sampling_params": NEUTRAL | asked | {"sampling_seed": seed},
        "return_logprob": True,
    }


def spans(completion: Completion) -> list[tuple[str, int, int]]:
    return [(span.version, span.start, span.end) for span in completion.weight_versions]


def test_a_plain_request_leaves_as_it_is(fake: FakeServer, fleet: Fleet) -> None:
    fleet.generate([REQUEST])
    assert fake.bodies == [sent("r1", PROMPT_IDS, 9, REQUEST.seed)]


def test_a_clients_usage_is_of_all_replies_so_far(fake: FakeServer, fleet: Fleet) -> None:
    fleet.generate([REQUEST])
    fleet.generate([replace(FORCED, rid="r2"), replace(REQUEST, rid="r3")])
    assert fleet.servers[0].client.usage == Usage(prompt=3 + 5 + 3, cached=0, output=9 + 7 + 9)


def test_forced_tokens_follow_the_prompt_count_in_the_cap_and_blame_no_server(fake: FakeServer, fleet: Fleet) -> None:
    fleet.update_weights(FolderWeights(Path("."), "v1"))
    [completion] = fleet.generate([FORCED])
    assert fake.bodies == [sent("r1", [*PROMPT_IDS, 30, 31], 7, REQUEST.seed)]
    assert completion.output_ids.tolist() == [30, 31, *[7] * 7]
    assert completion.sampled.tolist() == [False] * 2 + [True] * 7
    assert completion.logprobs.tolist() == [0.0] * 2 + [-1.0] * 7
    assert spans(completion) == [("v1", 2, 9)]
    assert fleet.take_stats()["server_events"] == []


def test_each_segment_asks_for_the_rest_with_a_seed_of_its_own(fake: FakeServer, fleet: Fleet) -> None:
    fake.faults = [one_token_stops] * 3
    environment = Pair()
    [completion] = fleet.generate([REQUEST], environment)
    texts = [[], [7, 21, 22], [7, 21, 22, 7, 21, 22]]
    assert fake.bodies == [
        sent(
            f"r1-segment-{index:04d}",
            [*PROMPT_IDS, *text],
            9 - len(text),
            derive_seed(REQUEST.seed, "segment", index),
            (2, 4, 7),
        )
        for index, text in enumerate(texts)
    ]
    assert completion.output_ids.tolist() == [7, 21, 22] * 3
    assert completion.sampled.tolist() == [True, False, False] * 3
    assert completion.finish_reason is FinishReason.LENGTH
    assert spans(completion) == [("v0", 0, 9)]
    rng = random.Random(derive_seed(REQUEST.seed, "environment"))
    assert environment.seen == [(PROMPT_IDS, [*text, 7], rng.random()) for text in texts]


def test_segments_begin_after_what_is_forced(fake: FakeServer, fleet: Fleet) -> None:
    fake.faults = [one_token_stops] * 2
    environment = Pair()
    [completion] = fleet.generate([FORCED], environment)
    assert [body["input_ids"] for body in fake.bodies] == [
        [*PROMPT_IDS, 30, 31],
        [*PROMPT_IDS, 30, 31, 7, 21, 22],
        [*PROMPT_IDS, 30, 31, 7, 21, 22, 7, 21, 22],
    ]
    assert [body["sampling_params"]["max_new_tokens"] for body in fake.bodies] == [7, 4, 1]
    assert completion.sampled.tolist() == [False, False, True, False, False, True, False, False, True]
    assert spans(completion) == [("v0", 2, 9)]
    assert [prompt_ids for prompt_ids, _output_ids, _draw in environment.seen] == [PROMPT_IDS] * 3


def test_an_environments_stop_token_at_the_end_of_a_cut_segment_lets_it_write_all_the_same(
    fake: FakeServer, fleet: Fleet
) -> None:
    """A segment that ends because of its length, with another token, is the end of the response."""
    other = replace(REQUEST, sampling=replace(SAMPLING, max_new_tokens=2))
    [completion] = fleet.generate([other], Pair())
    assert (completion.output_ids.tolist(), completion.finish_reason) == ([7, 7], FinishReason.LENGTH)
    environment = Pair()
    environment.stop_token_ids = (8,)
    [completion] = fleet.generate([replace(other, rid="r2")], environment)
    assert (completion.finish_reason, environment.seen) == (FinishReason.LENGTH, [])


def test_a_segment_that_is_aborted_before_its_first_token_lets_nobody_write(fake: FakeServer, fleet: Fleet) -> None:
    """Nobody had asked for it here, so the whole response is asked for again."""

    def aborted(reply: dict) -> dict:
        return {"output_ids": [], "meta_info": {"id": reply["meta_info"]["id"], "finish_reason": {"type": "abort"}}}

    fake.faults = [one_token_stops, aborted]
    environment = Pair()
    [completion] = fleet.generate([REQUEST], environment)
    assert [text for _prompt, text, _draw in environment.seen[:1]] == [[7]]
    assert fake.bodies[2]["rid"] == "again1-r1-segment-0000"
    assert completion.rid == "r1"


def begun(asked: RolloutRequest, fake: FakeServer, fleet: Fleet) -> Completion:
    """What the fake server has of a request when it is told to abort: two tokens."""
    fake.holds = lambda body: True
    with fleet.stream() as stream:
        stream.add([asked])
        [aborted] = stream.abort()
    fake.holds = lambda body: False
    fake.bodies.clear()
    assert aborted.finish_reason is FinishReason.ABORT
    return aborted


@pytest.mark.parametrize("forced", [[], [30, 31]])
def test_a_partial_rollout_goes_on_after_its_last_token_with_a_seed_of_that_place(
    forced: list[int], fake: FakeServer, fleet: Fleet
) -> None:
    asked = replace(REQUEST, forced_ids=token_array(forced))
    partial = begun(asked, fake, fleet)
    text = [*forced, 7, 7]
    assert partial.output_ids.tolist() == text
    fleet.update_weights(FolderWeights(Path("."), "v1"))
    with fleet.stream() as stream:
        stream.add([asked], {"r1": partial})
        [whole] = stream.take()
    seed = derive_seed(REQUEST.seed, "segment", len(text), 0)
    rid = f"r1-segment-{len(text):04d}-0000"
    assert fake.bodies == [sent(rid, [*PROMPT_IDS, *text], 9 - len(text), seed)]
    assert isinstance(whole, Completion)
    assert whole.output_ids.tolist() == [*forced, *[7] * (9 - len(forced))]
    assert spans(whole) == [("v0", len(forced), len(text)), ("v1", len(text), 9)]
    assert whole.sampled.tolist() == [False] * len(forced) + [True] * (9 - len(forced))


def test_a_partial_rollout_with_an_environment_draws_anew_at_its_place(fake: FakeServer, fleet: Fleet) -> None:
    partial = begun(REQUEST, fake, fleet)
    fake.faults = [one_token_stops]
    environment = Pair()
    with fleet.stream(environment) as stream:
        stream.add([REQUEST], {"r1": partial})
        stream.take()
    assert [(body["rid"], body["sampling_params"]["sampling_seed"]) for body in fake.bodies] == [
        (f"r1-segment-0002-{index:04d}", derive_seed(REQUEST.seed, "segment", 2, index)) for index in (0, 1)
    ]
    draw = random.Random(derive_seed(REQUEST.seed, "environment", 2)).random()
    assert environment.seen[0] == (PROMPT_IDS, [7, 7, 7], draw)


def test_new_tokens_of_old_weights_are_refused_also_where_they_join_a_partial_rollout_of_the_same(
    fake: FakeServer, fleet: Fleet
) -> None:
    partial = begun(REQUEST, fake, fleet)
    fleet.update_weights(FolderWeights(Path("."), "v1"))
    fake.faults = [of_weights("v0")] * 2  # although it has confirmed v1
    with (
        fleet.stream() as stream,
        pytest.raises(RolloutError, match=r"sampled from weights 'v0', current are \['v1'\]"),
    ):
        stream.add([REQUEST], {"r1": partial})
        stream.take()


def test_a_reply_may_be_of_the_weights_that_were_current_when_its_request_left_or_of_later_ones_only(
    fake: FakeServer, fleet: Fleet
) -> None:
    for version in ("v1", "v2"):
        fleet.update_weights(FolderWeights(Path("."), version))
    assert spans(fleet.generate([REQUEST])[0]) == [("v2", 0, 9)]
    fake.faults = [of_weights("v1")] * 2
    with pytest.raises(RolloutError, match=r"sampled from weights 'v1', current are \['v2'\]"):
        fleet.generate([REQUEST])


def test_the_request_that_is_sent_again_after_a_loss_is_the_same_under_another_id(
    fake: FakeServer, fleet: Fleet
) -> None:
    fake.faults = [lambda reply: []]
    fleet.generate([FORCED])
    first, second = fake.bodies
    assert first["rid"] == "r1" and second == first | {"rid": "again1-r1"}


@pytest.mark.parametrize("num_forced", [9, 12])
def test_forced_tokens_that_leave_nothing_to_sample_are_refused(
    num_forced: int, fake: FakeServer, fleet: Fleet
) -> None:
    asked = replace(REQUEST, forced_ids=token_array([30] * num_forced))
    with pytest.raises(RolloutError, match=rf"prompt p: {num_forced} forced tokens leave none of max_new_tokens = 9"):
        fleet.generate([asked])
    assert fake.bodies == []


@pytest.mark.parametrize("token", [1000, -1])
@pytest.mark.parametrize("field", ["prompt_ids", "forced_ids"])
def test_an_id_beyond_the_vocabulary_is_never_sent(fake: FakeServer, fleet: Fleet, field: str, token: int) -> None:
    with pytest.raises(RolloutError, match=f"prompt p: input id {token} is outside the model's vocabulary of 1000"):
        fleet.generate([replace(REQUEST, **{field: token_array([5, token])})])
    assert fake.bodies == []
    fleet.generate([replace(REQUEST, **{field: token_array([0, 999])})])
    assert len(fake.bodies) == 1
