"""Effective sample size and the divergence of servers and trainer, against sums that are written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.training.mismatch import Mismatch, effective_sample_size, mismatch_of
from egrc_mega.types import TrainSample


def with_servers(samples: list[TrainSample], seed: int = 0) -> tuple[list[TrainSample], TokenStats]:
    """Servers that differ by some 0.4, and are unknown where nothing was sampled; and what the trainer says."""
    random = np.random.default_rng(seed)
    servers = [-3 * random.random(len(sample.output_ids)).astype(np.float32) for sample in samples]
    trainer = [server + 0.4 * random.standard_normal(len(server)).astype(np.float32) for server in servers]
    told = [
        replace(sample, rollout_logprobs=np.where(sample.sampled, server, np.float32(np.nan)))
        for sample, server in zip(samples, servers, strict=True)
    ]
    return told, TokenStats(*[torch.from_numpy(np.concatenate(trainer))] * 3)


def share(weights: list[float]) -> float:
    return sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))


def test_the_figures_are_those_of_the_formulas_over_trained_tokens_that_a_server_told() -> None:
    samples, stats = with_servers(ragged_samples())
    trainer = iter(stats.logprobs.tolist())
    ratios: list[float] = []
    of_responses: list[float] = []
    for sample in samples:
        own = [
            math.exp(lp - float(server))
            for server, weight in zip(sample.rollout_logprobs, sample.loss_weights, strict=True)
            for lp in [next(trainer)]
            if weight and not math.isnan(server)
        ]
        ratios += own
        of_responses += [math.prod(own)] if own else []
    found = mismatch_of(samples, stats)
    assert 0 < len(ratios) < len(stats.logprobs), "some tokens count and some do not"
    assert found.ess_tokens == pytest.approx(share(ratios))
    assert found.ess_sequences == pytest.approx(share(of_responses))
    assert found.mismatch_kl == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / len(ratios))


def test_equal_weights_are_worth_all_and_one_of_many_is_worth_one() -> None:
    assert effective_sample_size(np.full(7, -3.0)) == pytest.approx(1)
    assert effective_sample_size(np.array([0.0, *[-80.0] * 4])) == pytest.approx(1 / 5)
    assert effective_sample_size(np.array([2000.0, 2000.0, -2000.0])) == pytest.approx(2 / 3), "nothing overflows"


def test_a_batch_whose_servers_told_nothing_has_no_figures() -> None:
    samples, stats = with_servers(ragged_samples())
    silent = [replace(s, rollout_logprobs=np.full_like(s.rollout_logprobs, np.nan)) for s in samples]
    untaught = [replace(s, loss_weights=np.zeros_like(s.loss_weights)) for s in samples]
    assert mismatch_of(silent, stats) == mismatch_of(untaught, stats) == Mismatch(None, None, None)
