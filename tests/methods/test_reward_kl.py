"""A KL term in the reward: what a response pays, before its reward is compared or token by token after it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import Credit
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import Grade, Group

KL = ([0.5, -0.25], [1.0, 0.0, 0.5], [0.25], [2.0])
"""log pi - log ref of each token: the second token of the second response was the environment's."""
SUMS = (0.25, 1.5, 0.25, 2.0)
REWARDS = (1.0, 0.0, 1.0)
"""Of the three responses that were judged."""
COEF = 0.4
PAYING = ["rloo", "reinforce_pp", "arora"]


def group(*, is_measured: bool = True) -> Group:
    samples = [
        make_sample([5, 6], grade=Grade.RIGHT),
        make_sample([5, 6, 7], grade=Grade.WRONG, sampled=[1, 0, 1]),
        make_sample([5], grade=Grade.RIGHT),
        make_sample([5], grade=Grade.UNGRADED),
    ]
    if is_measured:
        samples = [replace(s, reference_kl=np.array(own, np.float32)) for s, own in zip(samples, KL, strict=True)]
    return make_group(samples)


def credits(name: str, *, is_measured: bool = True, **fields: Any) -> list[Credit]:
    method = build_method(METHODS[name].Config(**fields))
    return method.credit([group(is_measured=is_measured)], view_of(method))[0]


def to_come(numbers: list[float]) -> list[float]:
    return [sum(numbers[t:]) for t in range(len(numbers))]


def against_the_others(rewards: list[float]) -> list[float]:
    total, n = sum(rewards), len(rewards)
    return [reward - (total - reward) / (n - 1) for reward in rewards]


def test_a_response_pays_before_it_is_compared_with_the_others() -> None:
    """RLOO: R' = R - coef sum k1, then R' less the mean of the others."""
    paid = [reward - COEF * kl for reward, kl in zip(REWARDS, SUMS, strict=False)]
    *judged, ungraded = credits("rloo", reward_kl_coef=COEF)
    assert [credit.advantage for credit in judged] == pytest.approx(against_the_others(paid))
    assert [credit.reward for credit in judged] == pytest.approx(paid)
    assert [credit.terms["kl"] for credit in judged] == pytest.approx([-COEF * kl for kl in SUMS[:3]])
    assert (ungraded.kept, ungraded.reward) == (False, None)


def test_a_token_pays_for_itself_and_those_after_it_once_the_baseline_is_off() -> None:
    advantages = against_the_others([*REWARDS])
    *judged, ungraded = credits("rloo", reward_kl_coef=COEF, reward_kl_kind="token")
    for credit, advantage, own in zip(judged, advantages, KL, strict=False):
        assert np.asarray(credit.advantage).tolist() == pytest.approx([advantage - COEF * kl for kl in to_come(own)])
    assert [credit.reward for credit in judged] == pytest.approx(
        [reward - COEF * kl for reward, kl in zip(REWARDS, SUMS, strict=False)]
    )
    assert not ungraded.kept


def test_reinforce_pp_whitens_what_the_tokens_have_paid() -> None:
    """A_t = R - coef sum over s >= t of k1_s, then mean 0 and deviation 1 (ddof 1) over the sampled tokens."""
    *judged, ungraded = credits("reinforce_pp", baseline="none", reward_kl_coef=COEF)
    returns = [[reward - COEF * kl for kl in to_come(own)] for reward, own in zip(REWARDS, KL, strict=False)]
    sampled = np.array([*returns[0], returns[1][0], returns[1][2], *returns[2]])
    for credit, own in zip(judged, returns, strict=True):
        expected = (np.array(own) - sampled.mean()) / np.sqrt(sampled.var(ddof=1) + 1e-8)
        assert np.asarray(credit.advantage).tolist() == pytest.approx(expected.tolist())
    assert not ungraded.kept


def test_aroras_code_whitens_over_all_tokens_after_they_have_paid() -> None:
    *plain, _ungraded = credits("arora", alpha=0.0)
    *judged, _ungraded = credits("arora", alpha=0.0, variant="code", reward_kl_coef=COEF)
    returns = [
        [float(credit.advantage) - COEF * kl for kl in to_come(own)] for credit, own in zip(plain, KL, strict=False)
    ]
    flat = np.concatenate(returns)
    for credit, own in zip(judged, returns, strict=True):
        expected = (np.array(own) - flat.mean()) / flat.std()
        assert np.asarray(credit.advantage).tolist() == pytest.approx(expected.tolist())


def test_a_response_that_earns_nothing_and_pays_is_trained_on() -> None:
    agreeing = make_group(
        [
            replace(make_sample([5, 6], grade=Grade.RIGHT), reference_kl=np.array(own, np.float32))
            for own in ([0.5, 0.5], [0.0, 0.0])
        ]
    )
    method = build_method(METHODS["rloo"].Config(reward_kl_coef=COEF, reward_kl_kind="token"))
    paying, free = method.credit([agreeing], view_of(method))[0]
    assert paying.kept and np.asarray(paying.advantage).tolist() == pytest.approx([-0.4, -0.2])
    assert not free.kept


@pytest.mark.parametrize("name", PAYING)
@pytest.mark.parametrize("kind", ["sum", "token"])
def test_without_a_price_or_without_a_reference_nothing_is_paid_and_nothing_measured(name: str, kind: str) -> None:
    free = credits(name, reward_kl_kind=kind)
    unmeasured = credits(name, is_measured=False, reward_kl_coef=COEF, reward_kl_kind=kind)
    plain = credits(name, is_measured=False)
    for found in (free, unmeasured):
        assert [float(credit.advantage) for credit in found] == [float(credit.advantage) for credit in plain]
    for coef, needs in ((0.0, frozenset()), (COEF, frozenset({"reference_kl"}))):
        assert build_method(METHODS[name].Config(reward_kl_coef=coef)).measures == needs


def test_the_kl_of_a_token_moves_nothing_after_it() -> None:
    """The return of a token holds what is still to come: earlier prices are none of its business."""
    first, second = (
        build_method(METHODS["rloo"].Config(reward_kl_coef=COEF, reward_kl_kind="token")) for _ in range(2)
    )
    own = group()
    changed = replace(
        own,
        samples=(replace(own.samples[0], reference_kl=np.array([9.0, -0.25], np.float32)), *own.samples[1:]),
    )
    before, after = first.credit([own], view_of(first))[0][0], second.credit([changed], view_of(second))[0][0]
    assert np.asarray(before.advantage)[1] == np.asarray(after.advantage)[1]
    assert np.asarray(before.advantage)[0] != np.asarray(after.advantage)[0]
