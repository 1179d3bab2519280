"""One draw of the embedded server, by hand: temperature, nucleus, top-k, greedy, and the log-prob that it names."""

import math

import numpy as np
import pytest
import torch

from egrc_mega.embedded import sampling
from egrc_mega.embedded.sampling import SamplingParams, draw

PROBABILITIES = (0.125, 0.5, 0.125, 0.25)
"""Of four tokens, at temperature 1; in order of weight: 1, 3, 0, 2."""
LOGITS = torch.tensor(PROBABILITIES, dtype=torch.float64).log().float()[None]


def drawn(uniform: float, **params: float) -> tuple[int, float]:
    [found] = draw(LOGITS, [SamplingParams(**params)], np.array([uniform]))
    return found.token, found.logprob


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.12, 0), (0.13, 1), (0.6, 1), (0.63, 2), (0.74, 2), (0.76, 3), (0.999, 3)]
)
def test_a_draw_is_the_inverse_of_the_distribution(uniform: float, token: int) -> None:
    assert drawn(uniform) == (token, pytest.approx(math.log(PROBABILITIES[token]), abs=1e-6))


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        # a token is in the nucleus while what stands before it has not filled it
        ({"top_p": 0.49}, {1}),
        ({"top_p": 0.51}, {1, 3}),
        ({"top_p": 0.74}, {1, 3}),
        ({"top_p": 0.76}, {0, 1, 3}),
        ({"top_p": 0.01}, {1}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_k": 2, "top_p": 0.49}, {1}),
    ],
)
def test_what_is_cut_is_never_drawn_and_log_probs_are_of_the_whole_distribution(
    params: dict[str, float], kept: set[int]
) -> None:
    found = [drawn(uniform, **params) for uniform in np.arange(0.0, 1.0, 1 / 64)]
    assert {token for token, _logprob in found} == kept
    for token, logprob in found:
        assert logprob == pytest.approx(math.log(PROBABILITIES[token]), abs=1e-6)


def test_the_log_prob_is_at_the_temperature_of_the_draw() -> None:
    powers = [p**2 for p in PROBABILITIES]  # temperature 1/2
    token, logprob = drawn(0.5, temperature=0.5)
    assert (token, logprob) == (1, pytest.approx(math.log(powers[1] / sum(powers)), abs=1e-6))


@pytest.mark.parametrize("temperature", [0.0, 1e-7])
def test_no_temperature_is_the_likeliest_token_with_its_log_prob_at_one(temperature: float) -> None:
    assert drawn(0.99, temperature=temperature) == (1, pytest.approx(math.log(0.5), abs=1e-6))


def test_each_row_has_its_own_parameters_and_its_own_number() -> None:
    params = [SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=1), SamplingParams()]
    found = draw(LOGITS.repeat(4, 1), params, np.array([0.0, 0.9, 0.9, 0.9]))
    assert [each.token for each in found] == [0, 1, 1, 3]
    # what was drawn from, and none where that was the whole vocabulary
    assert [each.mask for each in found] == [[], [1], [1], []]


@pytest.mark.parametrize(
    ("params", "mask"), [({"top_p": 0.6}, [1, 3]), ({"top_k": 3}, [0, 1, 3]), ({"temperature": 0.0}, [1])]
)
def test_a_token_comes_with_what_it_was_drawn_from_and_its_log_prob_among_that(
    params: dict[str, float], mask: list[int]
) -> None:
    for uniform in np.arange(0.0, 1.0, 1 / 16):
        [found] = draw(LOGITS, [SamplingParams(**params)], np.array([uniform]))
        assert found.mask == mask
        mass = sum(PROBABILITIES[token] for token in mask)
        assert found.masked_logprob == pytest.approx(math.log(PROBABILITIES[found.token] / mass), abs=1e-6)
    [whole] = draw(LOGITS, [SamplingParams()], np.array([0.5]))
    assert whole.masked_logprob == whole.logprob


def test_the_likeliest_token_is_found_without_sorting_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_kept", lambda *_: pytest.fail("sorted"))
    found = draw(LOGITS.repeat(2, 1), [SamplingParams(temperature=0.0), SamplingParams()], np.array([0.9, 0.9]))
    assert [(each.token, each.mask) for each in found] == [(1, [1]), (3, [])]


def test_every_token_of_a_request_has_a_number_of_its_own_that_its_seed_decides() -> None:
    first, same, other = (SamplingParams(max_new_tokens=50, sampling_seed=seed).uniforms() for seed in (3, 3, 4))
    assert first.tolist() == same.tolist() != other.tolist()
    assert len(first) == len(set(first)) == 50
    # a longer cap changes nothing of what comes first
    assert SamplingParams(max_new_tokens=80, sampling_seed=3).uniforms()[:50].tolist() == first.tolist()


def test_what_a_request_does_not_say_or_says_as_null_has_sglangs_default() -> None:
    plain = SamplingParams.parse({})
    assert (plain.max_new_tokens, plain.temperature, plain.top_p, plain.top_k) == (128, 1.0, 1.0, -1)
    assert (plain.stop_token_ids, plain.sampling_seed, plain.ignore_eos) == ((), 42, False)
    assert SamplingParams.parse({name: None for name in SamplingParams.__slots__ if name != "stop_token_ids"}) == plain
