"""AutoThink and Thinkless: the policy itself chooses whether it thinks, and the reward says what either is worth."""

import math
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

from egrc_mega.methods.autothink import AutoThinkSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.modes import NO_THINKING, THINKING, is_thinking
from egrc_mega.methods.thinkless import ThinklessSection
from egrc_mega.testing.samples import PROBLEM, batch_of, make_group, make_sample, view_of
from egrc_mega.types import Ask, FinishReason, Grade, Sample

WRONG, UNGRADED = Grade.WRONG, Grade.UNGRADED


def responding(text: str, length: int = 4, **fields: object) -> Sample:
    return replace(make_sample(range(length), **fields), text=text)


def rewards(section: object, *samples: Sample) -> list[float | None]:
    method = build_method(section)
    [row] = method.credit([make_group(samples)], view_of(method))
    return [credit.reward for credit in row]


def test_a_response_thinks_if_it_was_asked_to_or_else_if_it_does_not_begin_with_the_marker() -> None:
    assert [is_thinking(responding(text), "</think>") for text in ("\n</think> 1", "Well, 1 </think> 1")] == [
        False,
        True,
    ]
    modes = [is_thinking(responding("</think>", ask=Ask(tag=tag)), "</think>") for tag in (THINKING, NO_THINKING)]
    assert modes == [True, False]


def test_autothink_opens_the_thinking_with_an_ellipsis() -> None:
    method = build_method(AutoThinkSection(rollout={"n": 3}))
    assert list(method.plan(PROBLEM, view_of(method))) == [Ask(opening="...\n")] * 3


OFF = {"gamma": 1.0}
"""Of AutoThink's second stage: nothing but the base reward."""


def test_autothink_pays_most_for_right_answers_without_thinking() -> None:
    samples = [
        responding("I see </think> 1"),
        responding("I see </think> 1", grade=WRONG),
        responding("</think> 1"),
        responding("</think> 1", grade=WRONG),
        responding("</think>" + " again" * 10, grade=WRONG),
        responding("</think> " + "a" * 120, grade=WRONG),
        responding("</think> 1", well_formed=False),
        responding("I see", grade=WRONG, well_formed=False),
        responding("</think> 1", finish=FinishReason.LENGTH),
        responding("</think> 1", grade=UNGRADED),
    ]
    assert rewards(AutoThinkSection(**OFF), *samples) == [1.0, 0.0, 2.0, -1.0, -2.0, -2.0, 0.0, 0.0, -1.0, None]


def test_a_thinking_answer_may_repeat_itself_and_so_may_a_right_one() -> None:
    text = " again" * 30
    samples = [responding("Well" + text + "</think>", grade=WRONG), responding("</think>" + text)]
    assert rewards(AutoThinkSection(**OFF), *samples) == [0.0, 2.0]


def test_autothink_takes_from_the_mode_that_has_more_than_its_share_of_the_batch() -> None:
    # 3 of 4 think: d = 2 (.75 - .5) = .5; right .5 * 1 + .5 * 0, wrong .5 * 0 + .5 * -1; the other mode keeps its 2
    samples = [responding("I see </think>"), responding("So </think>"), responding("So </think>", grade=WRONG)]
    assert rewards(AutoThinkSection(), *samples, responding("</think>")) == [0.5, 0.5, -0.5, 2.0]
    # 3 of 4 do not: right .5 * 2 + .5 * 1, wrong .5 * -1 + .5 * -2
    samples = [responding("</think>"), responding("</think>"), responding("</think>", grade=WRONG)]
    assert rewards(AutoThinkSection(), *samples, responding("So </think>")) == [1.5, 1.5, -1.5, 1.0]


def test_the_balance_is_of_the_whole_batch_and_ungraded_samples_are_not_counted() -> None:
    method = build_method(AutoThinkSection())
    thinking = make_group([responding("So </think>"), responding("So </think>", grade=UNGRADED)])
    short = make_group([responding("</think>"), responding("</think>", grade=UNGRADED)])
    rows = method.credit([thinking, short], view_of(method))
    assert [[credit.reward for credit in row] for row in rows] == [[1.0, None], [2.0, None]]


def test_autothink_makes_short_right_answers_and_long_wrong_ones_better() -> None:
    lengths = [10, 20, 60]
    section = AutoThinkSection(gamma=1.0, alpha=0.5, beta=0.25)
    z = [(n - mean(lengths)) / stdev(lengths) for n in lengths]
    right = [responding("So", n) for n in lengths]
    wrong = [responding("So", n, grade=WRONG) for n in lengths]
    expected = [1 - 1 + math.exp(-0.5 * each) for each in z] + [1 - math.exp(-0.25 * each) for each in z]
    assert rewards(section, *right, *wrong) == pytest.approx(expected, abs=1e-12)
    # what is alone of its kind has no length term; lengths that are equal have z = 0, however far the others are
    assert rewards(section, responding("So", 3), responding("So", 9, grade=WRONG)) == [1.0, 0.0]
    equal = [responding("So", 8), responding("So", 8), responding("So", 9000, grade=WRONG)]
    assert rewards(section, *equal) == [1.0, 1.0, 0.0]


def test_an_ill_formed_answer_is_wrong_in_autothinks_length_term() -> None:
    section = AutoThinkSection(gamma=1.0, alpha=0.5, beta=0.5)
    samples = [responding("So", 10), responding("So", 20, well_formed=False), responding("So", 40, grade=WRONG)]
    # wrong are 20 and 40: z = -+ 10 / 14.142; the right one is alone
    z = 10 / stdev([20, 40])
    expected = [1.0, 1 - math.exp(0.5 * z), 1 - math.exp(-0.5 * z)]
    assert rewards(section, *samples) == pytest.approx(expected, abs=1e-12)


def test_autothink_balances_after_the_length_term() -> None:
    section = AutoThinkSection(gamma=0.75, alpha=1.0)
    samples = [responding("So", 10), responding("So", 30)]
    # all think: d = 2 (1 - .75) = .5; R = .5 (1 - 1 + exp(-z)) + .5 * 0, z = -+ 10 / 14.142
    z = 10 / stdev([10, 30])
    assert rewards(section, *samples) == pytest.approx([0.5 * math.exp(z), 0.5 * math.exp(-z)], abs=1e-12)


def test_autothink_normalises_within_the_group() -> None:
    method = build_method(AutoThinkSection(**OFF))
    group = make_group([responding("</think>"), responding("So"), responding("So", grade=WRONG)])
    values = [2.0, 1.0, 0.0]
    [row] = method.credit([group], view_of(method))
    assert [c.advantage for c in row] == pytest.approx([(v - 1) / (stdev(values) + 1e-6) for v in values], abs=1e-12)


def test_thinkless_pays_a_short_right_answer_twice_a_thinking_one() -> None:
    samples = [
        responding("<short></think> 1"),
        responding("<think> so </think> 1"),
        responding("<short></think> 1", grade=WRONG),
        responding("<think> so </think> 1", grade=WRONG),
        responding("<short> 1", well_formed=False),
        responding("<short></think> 1", finish=FinishReason.LENGTH),
        responding("<short></think> 1", grade=UNGRADED),
    ]
    assert rewards(ThinklessSection(), *samples) == [1.0, 0.5, -1.0, -1.0, -1.0, -1.0, None]
    assert rewards(ThinklessSection(thinking_reward=0.8), *samples[:2]) == [1.0, 0.8]


def test_thinkless_subtracts_the_mean_and_divides_by_nothing() -> None:
    method = build_method(ThinklessSection())
    group = make_group([responding("<short>"), responding("<think>"), responding("<short>", grade=WRONG)])
    [row] = method.credit([group], view_of(method))
    assert [credit.advantage for credit in row] == pytest.approx([1 - 0.5 / 3, 0.5 - 0.5 / 3, -1 - 0.5 / 3], abs=1e-12)
    assert [credit.token_class.tolist() for credit in row] == [[0, 1, 1, 1]] * 3
    assert method.metrics([group], [row], view_of(method)) == {"thinking": pytest.approx(1 / 3)}


@pytest.mark.parametrize(("variant", "rest"), [("paper", (1 / (2 * 1), 1 / (2 * 3))), ("code", (1 / 4, 1 / 4))])
def test_thinkless_has_a_mean_of_first_tokens_and_one_of_the_others(variant: str, rest: tuple[float, float]) -> None:
    group = make_group([responding("<short>", 2), responding("<think>", 4, grade=WRONG)])
    [update] = batch_of([group], ThinklessSection(variant=variant, alpha=0.125)).updates
    # two first tokens, so alpha / 2 each; of the others 1 and 3, in means of their own (paper) or in one (code)
    expected = [[0.125 / 2, *[share] * n] for share, n in zip(rest, (1, 3), strict=True)]
    for sample, weights in zip(update, expected, strict=True):
        assert sample.loss_weights.tolist() == pytest.approx(np.float32(weights).tolist())


def test_thinkless_keeps_what_a_file_says_of_its_loss() -> None:
    section = ThinklessSection(variant="code", loss={"kl_coef": 0.5, "agg": "seq-mean-token-mean"})
    assert (section.loss.kl_coef, section.loss.agg, section.loss.ratio) == (0.5, "seq-mean-token-mean", "token")
    assert section.loss.class_weights == (1e-3, 1.0)
