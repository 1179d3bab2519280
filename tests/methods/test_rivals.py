"""DAPO, ThinkPrune and AdaptThink: what they ask for, what they reward, what they remember."""

import math
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

from egrc_mega.errors import DataError
from egrc_mega.methods.adaptthink import AdaptThinkSection
from egrc_mega.methods.dapo import DapoSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.modes import NO_THINKING, THINKING
from egrc_mega.methods.records import View
from egrc_mega.methods.thinkprune import ThinkPruneSection, ThinkPruneState
from egrc_mega.testing.samples import PROBLEM, batch_of, make_group, make_sample, view_of
from egrc_mega.types import Ask, FinishReason, Grade, Problem

WRONG = Grade.WRONG


def test_dapo_gives_one_or_minus_one_and_the_soft_penalty_near_the_cap() -> None:
    section = DapoSection(max_length=20, overlong_buffer=8)
    method = build_method(section)
    lengths = [12, 16, 20, 24]
    [row] = method.credit([make_group([make_sample(range(n)) for n in lengths])], view_of(method))
    assert [credit.reward for credit in row] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    [[wrong]] = method.credit([make_group([make_sample(range(4), grade=WRONG)])], view_of(method))
    assert wrong.reward == -1.0


def test_dapo_normalises_within_the_group_and_averages_over_tokens() -> None:
    section = DapoSection(max_length=100, overlong_buffer=10)
    group = make_group([make_sample(range(2)), make_sample(range(6), grade=WRONG), make_sample(range(4))])
    [update] = batch_of([group], section).updates
    rewards = [1.0, -1.0, 1.0]
    expected = [(r - mean(rewards)) / (stdev(rewards) + 1e-6) for r in rewards]
    assert [float(sample.advantages[0]) for sample in update] == pytest.approx(expected)
    assert {round(float(w), 7) for sample in update for w in sample.loss_weights} == {round(1 / 12, 7)}


@pytest.mark.parametrize(("grades", "kept"), [("RR", False), ("WW", False), ("RW", True), ("RU", False), ("UU", False)])
def test_dapo_drops_groups_whose_graded_answers_all_agree(grades: str, kept: bool) -> None:
    method = build_method(DapoSection())
    by_letter = {"R": Grade.RIGHT, "W": WRONG, "U": Grade.UNGRADED}
    # lengths differ, so the shaped reward differs too: it is the accuracy that is asked
    samples = [make_sample(range(3 + 18000 * i), grade=by_letter[letter]) for i, letter in enumerate(grades)]
    assert method.keep(make_group(samples), view_of(method)) is kept


def test_dapo_has_the_published_defaults() -> None:
    section = DapoSection(rollout={"temperature": 0.9})
    assert (section.rollout.n, section.rollout.drop_groups) == (16, "all_right_or_wrong")
    loss = section.loss
    assert (loss.agg, loss.ratio, loss.eps_clip, loss.eps_clip_high) == ("token-mean", "token", 0.2, 0.28)
    assert (loss.dual_clip, loss.kl_coef) == (10.0, 0.0)


def test_thinkprune_asks_for_the_cap_in_force_and_tells_the_model() -> None:
    method = build_method(ThinkPruneSection(caps=(40, 30), rollout={"n": 3}))
    asks = method.plan(PROBLEM, View(step=9, state=ThinkPruneState(phase=1), seed=1))
    assert list(asks) == [Ask(system="The output of the assistant should be within 30 tokens.", max_new_tokens=30)] * 3
    assert method.longest == 40


def test_thinkprune_shrinks_its_cap_after_so_many_steps_and_keeps_the_last() -> None:
    method = build_method(ThinkPruneSection(caps=(40, 30, 20), steps_per_cap=2))
    state, caps = method.State(), []
    for step in range(7):
        view = View(step=step, state=state, seed=1)
        caps.append(method.metrics([], [], view)["cap"])
        state = method.after_step(view, {})
    assert caps == [40, 40, 30, 30, 20, 20, 20]
    assert type(state).model_validate_json(state.model_dump_json()) == state


def test_thinkprune_rewards_right_answers_within_the_cap_only() -> None:
    method = build_method(ThinkPruneSection())
    samples = [make_sample([1]), make_sample([1], finish=FinishReason.LENGTH), make_sample([1], grade=WRONG)]
    [row] = method.credit([make_group(samples)], view_of(method))
    assert [credit.reward for credit in row] == [1.0, 0.0, 0.0]


def test_thinkprune_refuses_caps_that_do_not_shrink_and_a_cap_of_the_sampling() -> None:
    section = ThinkPruneSection(caps=(30, 30), rollout={"max_new_tokens": 9})
    assert [line.partition(":")[0] for line in build_method(section).problems()] == ["rollout.max_new_tokens", "caps"]


def test_adaptthink_forces_half_of_a_group_into_each_mode() -> None:
    method = build_method(AdaptThinkSection(rollout={"n": 4}, no_thinking_cap=7, thinking_cap=9))
    asks = method.plan(PROBLEM, view_of(method))
    assert [(ask.forced, ask.tag, ask.max_new_tokens) for ask in asks] == [
        ("</think>", NO_THINKING, 7),
        ("</think>", NO_THINKING, 7),
        ("Alright", THINKING, 9),
        ("Alright", THINKING, 9),
    ]
    assert method.section.rollout.temperature == 0.6


def test_adaptthink_takes_the_reference_accuracy_from_the_data_and_the_mode_from_the_plan() -> None:
    problem = Problem(key="k", text="", answer="", facts={"reference_accuracy": 0.75})
    method = build_method(AdaptThinkSection())
    samples = [
        make_sample([3, 4], num_forced=1, ask=Ask(tag=NO_THINKING), problem=problem),
        make_sample([5, 6], num_forced=1, ask=Ask(tag=THINKING), problem=problem, grade=WRONG),
    ]
    [[short, long]] = method.credit([make_group(samples)], view_of(method))
    assert short.advantage == short.reward == pytest.approx(0.05 + 1 - 0.75)
    assert long.advantage == pytest.approx(-0.75)
    # the authors' grader finds no answer where the format is broken
    [[ill_formed]] = method.credit([make_group([replace(samples[0], well_formed=False)])], view_of(method))
    assert ill_formed.advantage == pytest.approx(0.05 - 0.75)
    assert method.metrics([make_group(samples)], [], view_of(method)) == {
        "accuracy_no_thinking": 1.0,
        "accuracy_thinking": 0.0,
    }


def test_adaptthink_trains_the_forced_token_as_drawn_with_probability_one_half() -> None:
    problem = Problem(key="k", text="", answer="", facts={"reference_accuracy": 0.5})
    sample = make_sample([3, 4, 5], num_forced=1, ask=Ask(tag=THINKING), problem=problem)
    [[trained]] = batch_of([make_group([sample])], AdaptThinkSection()).updates
    assert trained.old_logprobs is not None
    assert trained.old_logprobs[0] == np.float32(math.log(0.5))
    assert np.isnan(trained.old_logprobs[1:]).all()
    assert trained.loss_weights.tolist() == [np.float32(1 / 3)] * 3
    assert trained.sampled.tolist() == [False, True, True]
    assert np.isnan(trained.rollout_logprobs[0])


def test_a_fact_that_the_data_lacks_is_named() -> None:
    method = build_method(AdaptThinkSection())
    sample = make_sample([3, 4], ask=Ask(tag=THINKING))
    with pytest.raises(DataError, match=r"data\.facts: \[\] lacks 'reference_accuracy'"):
        method.credit([make_group([sample])], view_of(method))
