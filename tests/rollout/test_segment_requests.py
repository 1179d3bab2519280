"""The requests of a response in segments: prompt, cap, stops, name and seed of each, also after a begun part."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from egrc_mega.rollout import segments
from egrc_mega.seeds import derive_seed
from egrc_mega.testing.samples import make_mask, masks_in
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, VersionSpan, token_array

STOP, PAUSE = 2, 10


class Client:
    """Gives the scripted answers, one a request: token ids, and a reason where it is not a stop."""

    def __init__(self, *answers: Sequence[int], reason: FinishReason = FinishReason.STOP) -> None:
        self.answers, self.reason = list(answers), reason
        self.requests: list[RolloutRequest] = []

    async def generate(self, request: RolloutRequest) -> Completion:
        self.requests.append(request)
        ids = self.answers.pop(0)
        is_last = not self.answers
        return Completion(
            rid=request.rid,
            output_ids=token_array(ids),
            logprobs=np.full(len(ids), -0.5, np.float32),
            sampled=np.ones(len(ids), bool),
            finish_reason=self.reason if is_last else FinishReason.STOP,
            weight_versions=(VersionSpan(version="v1", start=0, end=len(ids)),),
        )


class Environment:
    """Writes 7s after a pause, as many as it is told, and notes what it saw and drew."""

    stop_token_ids = (PAUSE, 11)

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.seen: list[tuple[list[int], list[int], float]] = []

    def write(self, prompt_ids: np.ndarray, output_ids: np.ndarray, rng: random.Random) -> list[int]:
        self.seen.append((prompt_ids.tolist(), output_ids.tolist(), rng.random()))
        return [7] * self.count


def request(seed: int = 5, forced: Sequence[int] = (), cap: int = 20) -> RolloutRequest:
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=cap, stop_token_ids=(STOP,))
    return RolloutRequest(
        rid="r",
        prompt_id="p",
        prompt_ids=token_array([1, 4]),
        forced_ids=token_array(forced),
        sampling=sampling,
        seed=seed,
    )


def begun(*ids: int) -> Completion:
    return Completion(
        rid="r",
        output_ids=token_array(ids),
        logprobs=np.full(len(ids), -1.0, np.float32),
        sampled=np.ones(len(ids), bool),
        finish_reason=FinishReason.ABORT,
        weight_versions=(VersionSpan(version="v0", start=0, end=len(ids)),),
    )


def generate(
    client: Client, environment: Environment | None = None, start: Completion | None = None, **fields: object
) -> Completion:
    return asyncio.run(segments.generate(client, request(**fields), environment, start))  # type: ignore[arg-type]


def seeds(client: Client) -> list[int]:
    return [one.seed for one in client.requests]


def test_without_an_environment_a_request_leaves_as_it_is() -> None:
    client = Client([5, STOP])
    generate(client)
    [sent] = client.requests
    assert (sent.rid, sent.seed, sent.prompt_ids.tolist(), sent.sampling) == ("r", 5, [1, 4], request().sampling)


def test_each_segment_asks_for_the_rest_under_a_name_and_a_seed_of_its_own() -> None:
    client, environment = Client([5, PAUSE], [6, 11], [STOP]), Environment()
    whole = generate(client, environment)
    assert whole.output_ids.tolist() == [5, PAUSE, 7, 7, 6, 11, 7, 7, STOP]
    assert whole.sampled.tolist() == [True, True, False, False, True, True, False, False, True]
    assert whole.logprobs.tolist() == [-0.5, -0.5, 0.0, 0.0, -0.5, -0.5, 0.0, 0.0, -0.5]
    assert [sent.prompt_ids.tolist() for sent in client.requests] == [
        [1, 4],
        [1, 4, 5, PAUSE, 7, 7],
        [1, 4, 5, PAUSE, 7, 7, 6, 11, 7, 7],
    ]
    assert [sent.rid for sent in client.requests] == ["r-segment-0000", "r-segment-0001", "r-segment-0002"]
    assert seeds(client) == [derive_seed(5, "segment", i) for i in range(3)]
    for sent, cap in zip(client.requests, (20, 16, 12), strict=True):
        assert sent.sampling == Sampling(
            temperature=0.7, top_p=0.9, max_new_tokens=cap, stop_token_ids=(STOP, PAUSE, 11)
        )
        assert sent.prompt_id == "p" and not len(sent.forced_ids)


def test_the_environment_sees_prompt_and_response_and_draws_from_a_seed_of_the_sample() -> None:
    draws = []
    for seed in (5, 6):
        environment = Environment()
        generate(Client([5, PAUSE], [6, PAUSE], [STOP]), environment, seed=seed)
        rng = random.Random(derive_seed(seed, "environment"))
        assert environment.seen == [
            ([1, 4], [5, PAUSE], rng.random()),
            ([1, 4], [5, PAUSE, 7, 7, 6, PAUSE], rng.random()),
        ]
        draws.append(environment.seen[0][2])
    assert draws[0] != draws[1]


def test_what_goes_on_from_a_begun_part_has_seeds_and_names_of_that_place() -> None:
    found = []
    for start in (begun(5, 6), begun(5, 6, 8)):
        client, environment = Client([PAUSE], [STOP]), Environment()
        whole = generate(client, environment, start)
        place = len(start.output_ids)
        assert whole.output_ids.tolist() == [*start.output_ids.tolist(), PAUSE, 7, 7, STOP]
        assert seeds(client) == [derive_seed(5, "segment", place, i) for i in range(2)]
        assert [one.rid for one in client.requests] == [f"r-segment-{place:04d}-{i:04d}" for i in range(2)]
        assert environment.seen[0][2] == random.Random(derive_seed(5, "environment", place)).random()
        assert client.requests[0].sampling.max_new_tokens == 20 - place
        spans = [(span.version, span.start, span.end) for span in whole.weight_versions]
        assert spans == [("v0", 0, place), ("v1", place, place + 4)]
        found += seeds(client)
    assert len({*found, *(derive_seed(5, "segment", i) for i in range(2))}) == 6


def test_spans_of_one_version_stay_apart_where_one_is_pure_and_the_other_is_not() -> None:
    start = begun(5, 6)
    impure = replace(start.weight_versions[0], version="v1", pure=False)
    whole = generate(Client([7]), None, replace(start, weight_versions=(impure,)))
    assert [(span.version, span.start, span.pure) for span in whole.weight_versions] == [
        ("v1", 0, False),
        ("v1", 2, True),
    ]


def test_a_begun_part_without_an_environment_is_continued_once() -> None:
    client = Client([6, PAUSE])
    whole = generate(client, None, begun(5))
    assert whole.output_ids.tolist() == [5, 6, PAUSE]
    [sent] = client.requests
    assert sent.sampling.stop_token_ids == (STOP,)
    assert sent.seed == derive_seed(5, "segment", 1, 0)


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ABORT])
def test_a_segment_that_was_cut_or_aborted_at_a_pause_is_the_end(reason: FinishReason) -> None:
    environment = Environment()
    whole = generate(Client([5, PAUSE], reason=reason), environment)
    assert (whole.output_ids.tolist(), whole.finish_reason, environment.seen) == ([5, PAUSE], reason, [])


def test_a_stop_at_the_answers_own_end_is_the_end() -> None:
    environment = Environment()
    whole = generate(Client([5, STOP]), environment)
    assert (whole.finish_reason, environment.seen) == (FinishReason.STOP, [])


@pytest.mark.parametrize(("cap", "kept"), [(3, 1), (4, 2)])
def test_the_cap_cuts_what_the_environment_writes(cap: int, kept: int) -> None:
    client = Client([5, PAUSE])
    whole = generate(client, Environment(2), cap=cap)
    assert whole.output_ids.tolist() == [5, PAUSE, *[7] * kept]
    assert whole.finish_reason is FinishReason.LENGTH
    assert len(client.requests) == 1


def test_forced_tokens_stand_first_and_belong_to_no_version() -> None:
    client = Client([6, STOP])
    whole = generate(client, Environment(), forced=(9, 9))
    assert client.requests[0].prompt_ids.tolist() == [1, 4, 9, 9]
    assert client.requests[0].sampling.max_new_tokens == 18
    assert whole.sampled.tolist() == [False, False, True, True]
    assert [(span.start, span.end) for span in whole.weight_versions] == [(2, 4)]


def test_masks_of_segments_lie_end_to_end_and_what_an_environment_wrote_has_none() -> None:
    class Masking(Client):
        async def generate(self, request: RolloutRequest) -> Completion:
            completion = await super().generate(request)
            masks = [[token, 90] for token in completion.output_ids.tolist()]
            return replace(completion, sampling_mask=make_mask(masks))

    whole = generate(Masking([5, PAUSE], [STOP]), Environment(), forced=[8])
    assert whole.output_ids.tolist() == [8, 5, PAUSE, 7, 7, STOP]
    assert masks_in(whole.sampling_mask) == [[], [5, 90], [PAUSE, 90], [], [], [STOP, 90]]
    # a begun response of a step without masks goes on with them
    whole = generate(Masking([STOP]), start=begun(4, 6))
    assert masks_in(whole.sampling_mask) == [[], [], [STOP, 90]]
