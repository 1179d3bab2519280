"""Methods whose reward knows the lengths of a group: every number is worked out from the formula in the test."""

import math
from dataclasses import replace
from statistics import fmean, pstdev, stdev
from typing import Any

import numpy as np
import pytest

from egrc_mega.errors import DataError
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import Credit, View
from egrc_mega.testing.samples import make_group, make_lettered, make_sample, view_of
from egrc_mega.types import Ask, Grade, Group, Problem


def credits(name: str, *groups: Group | str, state: Any = None, step: int = 0, **fields: Any) -> list[list[Credit]]:
    method = build_method(METHODS[name].Config(**fields))
    view = View(step=step, state=state or method.State(), seed=1)
    return method.credit([measured(make_lettered(g)) if isinstance(g, str) else g for g in groups], view)


def measured(group: Group) -> Group:
    """The group with a text of one step, whose entropies say nothing."""
    samples = [
        replace(s, text="x" * s.length, token_ends=np.arange(1, s.length + 1), entropies=np.ones(s.length, np.float32))
        for s in group.samples
    ]
    return replace(group, samples=tuple(samples))


def rewards(name: str, group: Group | str, **more: Any) -> list[float | None]:
    return [credit.reward for credit in credits(name, group, **more)[0]]


def close(values: list[float | None]) -> Any:
    """Equal to 12 digits; None as itself."""
    return [None if value is None else pytest.approx(value, rel=1e-12, abs=1e-15) for value in values]


COMPARING = ("kimi", "dast", "smartthinker", "short_rl", "a_dlp", "shorterbetter", "hapo", "etr", "length_penalty")
MIXED = "R200 R400 W600 T800 U1000"


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("group", [MIXED, "R30 R20 R70", "W30 W20 T70"])
def test_advantages_are_the_rewards_less_the_mean_over_the_unbiased_deviation(name: str, group: str) -> None:
    [row] = credits(name, group)
    given = [credit.reward for credit in row if credit.reward is not None]
    agree = max(given) == min(given)
    expected = [0.0 if c.reward is None or agree else (c.reward - fmean(given)) / (stdev(given) + 1e-6) for c in row]
    assert [credit.advantage for credit in row] == close(expected)
    assert [credit.kept for credit in row] == [advantage != 0 for advantage in expected]


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("group", ["R50", "W50", "T50", "U50 U60", "R50 U60", "R50 R50 R50", "W50 W50"])
def test_one_graded_response_or_equal_ones_teach_nothing(name: str, group: str) -> None:
    [row] = credits(name, group)
    assert [(credit.advantage, credit.kept) for credit in row] == [(0.0, False)] * len(row)
    assert all(np.isfinite(credit.reward) for credit in row if credit.reward is not None)


@pytest.mark.parametrize("name", [*COMPARING, "gfpo"])
def test_an_ungraded_response_changes_nobody_and_has_no_reward(name: str) -> None:
    [with_ungraded], [without] = credits(name, "R200 U1 R400 W600 U9000"), credits(name, "R200 R400 W600")
    assert [with_ungraded[i].reward for i in (0, 2, 3)] == [credit.reward for credit in without]
    assert [with_ungraded[i].advantage for i in (0, 2, 3)] == [credit.advantage for credit in without]
    assert [(with_ungraded[i].reward, with_ungraded[i].kept) for i in (1, 4)] == [(None, False)] * 2


@pytest.mark.parametrize("name", [*COMPARING, "gfpo"])
def test_a_right_answer_that_is_cut_off_is_worth_what_a_wrong_one_is(name: str) -> None:
    cut_off = measured(make_lettered("R200 R400 T600"))
    wrong = replace(cut_off, samples=(*cut_off.samples[:2], replace(cut_off.samples[2], grade=Grade.WRONG)))
    assert rewards(name, cut_off) == rewards(name, wrong)


def test_kimi_pays_by_the_place_between_shortest_and_longest_and_never_for_wrong_ones() -> None:
    # lambda = 1/2 - (l - 200) / 600: 1/2, 1/6, -1/6, -1/2
    assert rewards("kimi", MIXED) == close([1 + 0.4 / 2, 1 + 0.4 / 6, -0.4 / 6, -0.4 / 2, None])
    assert rewards("kimi", "W200 R400 R800") == close([0.0, 1 + 0.4 / 6, 1 - 0.4 / 2])
    assert rewards("kimi", "R50 W50") == [1.0, 0.0]
    assert rewards("kimi", "R200 W800", weight=1.0) == [1.5, -0.5]


def test_kimi_can_do_without_lengths_at_first() -> None:
    assert rewards("kimi", "R200 W800", warmup_steps=3, step=2) == [1.0, 0.0]
    assert rewards("kimi", "R200 W800", warmup_steps=3, step=3) == close([1.2, -0.2])


OF_REFERENCE = Problem(key="k", text="", answer="", facts={"reference_accuracy": 0.5, "reference_length": 400.0})


def test_o1_pruner_weighs_against_the_reference_and_normalises_over_the_batch() -> None:
    # (400 - l) / l + 5 (c - 1/2): 1 + 2.5; 0 + 2.5; -1/3 - 2.5 and -1/2 - 2.5 are below -2; 3 + 2.5 is above 4
    first = make_lettered("R200 R400 W600 T800 U5", OF_REFERENCE)
    second = make_lettered("R100 W200", OF_REFERENCE)
    rows = credits("o1_pruner", first, second)
    weights = [3.5, 2.5, -2.0, -2.0, 4.0, 1 - 2.5]
    assert [c.reward for row in rows for c in row] == close([*weights[:4], None, *weights[4:]])
    expected = [(w - fmean(weights)) / pstdev(weights) for w in weights]
    assert [c.advantage for row in rows for c in row] == close([*expected[:4], 0.0, *expected[4:]])


def test_o1_pruner_gives_nothing_where_all_weights_are_equal_and_names_the_column_it_lacks() -> None:
    [row] = credits("o1_pruner", make_lettered("R9 R9 U9", OF_REFERENCE))
    assert [credit.advantage for credit in row] == [0.0, 0.0, 0.0]
    [row] = credits("o1_pruner", make_lettered("U9", OF_REFERENCE))
    assert [credit.kept for credit in row] == [False]
    bounded = rewards("o1_pruner", make_lettered("R200 W600", OF_REFERENCE), lowest=-1.0, highest=1.0, alpha=1.0)
    assert bounded == close([1.0, -1 / 3 - 0.5])
    with pytest.raises(DataError, match="reference_length"):
        credits("o1_pruner", make_lettered("R9 W9"))


def test_dast_pays_right_ones_below_the_budget_and_wrong_ones_above_it() -> None:
    # p = 1/2, mean right 300, longest 800: budget 150 + 400 = 550
    assert rewards("dast", MIXED) == close([0.5 + 7 / 22, 0.5 + 3 / 22, -0.1, -0.1, None])
    # p = 2/3, mean right 600, longest 1100: budget 2300/3; 1100 is 1000/2300 above, 50 is
    # 2150/2300 below, 100 is 2000/2300
    long = 0.5 - 0.5 * 1000 / 2300
    assert rewards("dast", "R100 R1100 W50") == close([0.5 + 0.5 * 2000 / 2300, long, -0.9 * 2150 / 2300 - 0.1])


def test_dasts_rewards_have_floors_and_a_problem_that_nobody_solves_the_longest_as_budget() -> None:
    # 7 of 8 right: budget 7/8 * 1540/7 + 1/8 * 1500 = 380; 1500 is 112/38 above, where .5 - 56/38 is below .1
    group = " ".join(["R40"] * 6 + ["R1300", "W1500"])
    assert rewards("dast", group)[6] == 0.1
    assert rewards("dast", "W250 W1000") == close([-0.9 * 0.75 - 0.1, -0.1])
    assert rewards("dast", "W250 W1000", max_length=2000) == close([-0.9 * 1750 / 2000 - 0.1, -0.9 / 2 - 0.1])


def test_smartthinkers_best_length_is_where_right_ones_are_dense() -> None:
    # all: mean 500, variance 75000; right: mean 250, variance 2500; best 17.5e6 / 72500 = 241.37..., 300 is 58.62 over
    best = (2500 * 500 - 75000 * 250) / (2500 - 75000)
    excess = 300 - best
    price = 0.5 / (excess - excess / 4 + 1e-6)
    assert rewards("smartthinker", "R200 R300 W600 W900") == close([1.0, 1 - price * excess, 0.0, 0.0])


def test_smartthinkers_best_length_is_no_shorter_than_the_shortest() -> None:
    # all: mean 40, variance 1400/3; right: mean 30, variance 400; 30 - 400 * 10 / (200/3) = -30, so 10: 50 is 40 over
    price = (1 / 3) / (40 - 40 / 3 + 1e-6)
    assert rewards("smartthinker", "R10 R50 W60") == close([1.0, 1 - price * 40, 0.0])


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        # variance of the right ones is larger: the shortest is best; penalties 0, 800, of mean 800/3
        ("R100 W500 R900", [1.0, 0.0, 1 - (1 / 3) / (800 - 800 / 3 + 1e-6) * 800]),
        # both are 25; right ones are shorter in the mean (15 against 22.5): the longest is best
        ("R10 R20 W25 W25 W25 W25 W25 W25", [1.0, 1.0, *[0.0] * 6]),
        # both are 25; right ones are longer (15 against 7.5): the shortest is best; penalties 5, 15, of mean 20/8
        ("R10 R20 W5 W5 W5 W5 W5 W5", [1 - 0.75 / (12.5 + 1e-6) * 5, 1 - 0.75 / (12.5 + 1e-6) * 15, *[0.0] * 6]),
        # all right, none right, one length
        ("R10 R90", [1.0, 1.0]),
        ("W10 W90", [0.0, 0.0]),
        ("R50 W50 R50", [1.0, 0.0, 1.0]),
        # one right response: variance 0, best is its own length
        ("R50 W80 W20", [1.0, 0.0, 0.0]),
        # right ones are alike: best is their length
        ("R90 R90 W10", [1.0, 1.0, 0.0]),
    ],
)
def test_smartthinker_at_its_edges(group: str, expected: list[float]) -> None:
    assert rewards("smartthinker", group) == close(expected)


def malformed(group: Group, *places: int) -> Group:
    samples = [replace(s, well_formed=i not in places and s.well_formed) for i, s in enumerate(group.samples)]
    return replace(group, samples=tuple(samples))


def test_short_rl_pays_for_length_beyond_a_tolerance_only() -> None:
    # right ones 200, 250, 500: 250 is within 100 of the shortest; 3 for format and answer
    group = malformed(make_lettered("R200 R250 R500 W600 R100 U5"), 4)
    lazy = 0.5 - 300 / (300 + 1e-5)
    assert rewards("short_rl", group) == close([3.5, 3.5, 3 + lazy, -0.5, -3.0, None])
    assert rewards("short_rl", "R200 R300 R301 T9") == close([3.5, 3.5, 3.5 - 101 / (101 + 1e-5), -3.0])


def test_short_rl_stops_while_accuracy_is_more_than_the_tolerance_below_its_best() -> None:
    state = METHODS["short_rl"].State
    # two of four are right
    assert rewards("short_rl", "R200 R900 W5 W5", state=state(best=0.56))[0] == 3.0
    assert rewards("short_rl", "R200 R900 W5 W5", state=state(best=0.54))[0] == 3.5
    # the batch's accuracy counts, not the group's
    rows = credits("short_rl", "R200 R900", "W5 W5 U5", state=state(best=0.56))
    assert [credit.reward for credit in rows[0]] == [3.0, 3.0]


def test_short_rl_remembers_its_best_accuracy() -> None:
    method = build_method(METHODS["short_rl"].Config())
    groups, view = [malformed(make_lettered("R9 R8 W7 R6 U5"), 3)], view_of(method)
    record = {f"method_{name}": value for name, value in method.metrics(groups, [], view).items()}
    assert record == {"method_accuracy": 0.5}
    after = method.after_step(view, record)
    worse = method.after_step(View(step=1, state=after, seed=1), {"method_accuracy": 0.25})
    assert (after.best, worse.best, worse.accuracy) == (0.5, 0.5, 0.25)


def test_a_dlp_takes_a_price_for_every_token_and_moves_it_after_the_step() -> None:
    assert rewards("a_dlp", MIXED) == close([0.8, 0.6, -0.6, -0.8, None])
    method = build_method(METHODS["a_dlp"].Config(initial_price=0.002, rate=0.01, target=0.6))
    view = view_of(method)
    assert method.metrics([], [], view) == {"price": 0.002}
    up = method.after_step(view, {"accuracy": 0.7})
    assert up.price == pytest.approx(0.002 + 0.01 * 0.1)
    assert method.after_step(View(step=1, state=up, seed=1), {"accuracy": 0.1}).price == 0.0
    assert method.after_step(View(step=1, state=up, seed=1), {"accuracy": None}) == up
    assert rewards("a_dlp", "R100 W10", state=METHODS["a_dlp"].State(price=0.0)) == [1.0, 0.0]


def test_gfpo_compares_the_shortest_and_drops_the_rest() -> None:
    [row] = credits("gfpo", "R400 W100 U1 R300 R200 W500", k=3)
    # kept: W100, R200, R300: mean 2/3, deviation sqrt(1/3)
    std = math.sqrt(1 / 3) + 1e-4
    assert [c.advantage for c in row] == close([0.0, -2 / 3 / std, 0.0, 1 / 3 / std, 1 / 3 / std, 0.0])
    assert [c.reward for c in row] == [1.0, 0.0, None, 1.0, 1.0, 0.0]
    assert [c.kept for c in row] == [False, True, False, True, True, False]


def test_gfpo_by_efficiency_keeps_the_most_reward_a_token() -> None:
    # .01, 0, .0025, 0 (the later of two): the wrong one of 50 is kept
    [row] = credits("gfpo", "R100 W50 R400 W10", k=3, metric="efficiency")
    std = math.sqrt(1 / 3) + 1e-4
    assert [c.advantage for c in row] == close([1 / 3 / std, -2 / 3 / std, 1 / 3 / std, 0.0])


def test_gfpo_may_keep_less_reward_where_it_is_more_a_token() -> None:
    # 1 / 400, 1 / 100 and .5 / 10: mean .75, deviation sqrt(1/8)
    terms = [{"reward": "accuracy", "wrong": 0.5}]
    [row] = credits("gfpo", "R400 R100 W10", k=2, metric="efficiency", rewards=terms)
    std = math.sqrt(1 / 8) + 1e-4
    assert [c.advantage for c in row] == close([0.0, 0.25 / std, -0.25 / std])


@pytest.mark.parametrize("group", ["R9", "R9 R8 R7", "W9 W8 T7", "U9 U8"])
def test_gfpo_learns_nothing_where_the_kept_ones_agree(group: str) -> None:
    assert {credit.advantage for credit in credits("gfpo", group, k=2)[0]} == {0.0}


def test_shorterbetter_takes_the_distance_to_the_shortest_right_one() -> None:
    assert rewards("shorterbetter", MIXED) == close([2.0, 1.8, -0.4, -0.6, None])
    assert rewards("shorterbetter", "R400 W100") == close([2.0, -0.3])
    # none is right: the distance to the mean, 500
    assert rewards("shorterbetter", "W200 T800") == close([-0.3, -0.3])
    assert rewards("shorterbetter", "R5 R15", alpha=1.0, beta=0.1) == close([1.0, 0.0])


ROOT = math.sqrt(0.5)


def test_hapo_compares_with_the_shortest_right_one_of_earlier_steps() -> None:
    state = METHODS["hapo"].State(shortest={"test:1": 400})
    # |y| / h = 1/2, 3/2, 5/2: cos pi/4, cos 3pi/4 = -.707 and cos pi = -1, bounded by -.7; wrong ones gain nothing
    assert rewards("hapo", "R200 R600 R1000 R400", state=state) == close([1 + ROOT, 0.3, 0.3, 1.0])
    assert rewards("hapo", "W200 W600 W1000 U4", state=state) == close([0.0, -ROOT, -1.0, None])
    assert rewards("hapo", "R200 W600", state=state, weight=0.5) == close([1 + ROOT / 2, -ROOT / 2])


def test_hapo_has_no_length_reward_before_there_is_a_history() -> None:
    assert rewards("hapo", MIXED) == [1.0, 1.0, 0.0, 0.0, None]


def test_hapo_takes_a_history_from_the_data_and_the_shorter_of_the_two() -> None:
    problem = Problem(key="k", text="", answer="", facts={"history_length": 400.0})
    group = make_lettered("R200 W600", problem)
    assert rewards("hapo", group) == close([1 + ROOT, -ROOT])
    state = METHODS["hapo"].State
    assert rewards("hapo", group, state=state(shortest={"k": 200})) == close([1.0, -1.0])
    assert rewards("hapo", group, state=state(shortest={"k": 900})) == close([1 + ROOT, -ROOT])


def test_hapo_remembers_the_shortest_right_one_of_each_problem() -> None:
    method = build_method(METHODS["hapo"].Config())
    other, third = (Problem(key=key, text="", answer="") for key in ("b", "c"))
    first = method.remember(
        view_of(method), [make_lettered("R30 R20 W5 T4 U3"), make_lettered("R9 R70", other), make_lettered("W1", third)]
    )
    assert first.shortest == {"test:1": 20, "b": 9}
    second = method.remember(View(step=1, state=first, seed=1), [make_lettered("R25"), make_lettered("R8", other)])
    assert second.shortest == {"test:1": 20, "b": 8}
    assert first.shortest == {"test:1": 20, "b": 9}
    assert type(second).model_validate_json(second.model_dump_json()) == second


def recorded(length: int, entropies: list[float], grade: Grade = Grade.RIGHT) -> Any:
    facts = {f"step_entropy_{i}": value for i, value in enumerate(entropies)}
    return make_sample(range(length), grade=grade, ask=Ask(facts=facts))


def test_etr_pays_for_entropy_that_falls_and_takes_twice_as_much_where_it_rises() -> None:
    group = make_group(
        [
            recorded(9, [0.5, 0.3, 0.6]),
            recorded(9, [0.5, 0.3, 0.1]),
            recorded(9, [0.4]),
            recorded(9, [0.9, 0.1], Grade.WRONG),
            recorded(9, [0.9, 0.1], Grade.UNGRADED),
        ]
    )
    # r_1 = .4 * .2 = .08; r_2 = .99 * .08 - .8 * .3; or .99 * .08 + .4 * .2
    first, second = 0.08 + (0.99 * 0.08 - 0.24), 0.08 + (0.99 * 0.08 + 0.08)
    assert rewards("etr", group) == close([1 + 0.005 * first, 1 + 0.005 * second, 1.0, -1.0, None])
    weighed = rewards("etr", group, weight=1.0, alpha=1.0, beta=0.0, gamma=0.5, wrong=0.0)
    assert weighed == close([1 + 0.2 + 0.1, 1 + 0.2 + 0.1 + 0.2, 1.0, 0.0, None])


def test_etr_measures_steps_between_empty_lines_and_leaves_out_what_follows_the_last() -> None:
    texts = ["a", "b\n\n", "c", "d", ".\n\n", "answer"]
    entropies = np.array([1.0, 3.0, 0.5, 1.0, 1.5, 9.0], np.float32)
    ends = np.cumsum([len(text) for text in texts]).astype(np.int32)
    sample = replace(make_sample(range(6)), text="".join(texts), token_ends=ends, entropies=entropies)
    silent = replace(make_sample(range(1)), text="5", token_ends=np.array([1]), entropies=np.zeros(1, np.float32))
    # steps of mean entropy 2 and 1 nats, in units of ln 5
    assert rewards("etr", make_group([sample, silent])) == close([1 + 0.005 * 0.4 / math.log(5), 1.0])
    assert rewards("etr", make_group([sample, silent]), step_end="c") == [1.0, 1.0]
    assert build_method(METHODS["etr"].Config()).needs == {"entropies", "token_ends"}


def test_length_penalty_centres_the_places_of_right_ones() -> None:
    # 1, 2/3 and 0 between 200 and 800, of mean 5/9
    expected = [1 + 0.1 * 4 / 9, 1 + 0.1 / 9, 0.0, 1 - 0.1 * 5 / 9, None]
    assert rewards("length_penalty", "R200 R400 W600 R800 U900") == close(expected)
    assert rewards("length_penalty", "R200 W9") == [1.0, 0.0]
    assert rewards("length_penalty", "R200 R200 W9") == [1.0, 1.0, 0.0]


def test_length_penalty_pays_the_shortest_and_takes_from_the_longest() -> None:
    off = {"relative": 0.0}
    group = "R300 R200 W100 R900 R900"
    assert rewards("length_penalty", group, total=off | {"shortest": 0.25}) == [1.0, 1.25, 0.0, 1.0, 1.0]
    assert rewards("length_penalty", group, total=off | {"longest": 0.25}) == [1.0, 1.0, 0.0, 0.75, 1.0]
    assert rewards("length_penalty", group, total=off | {"longest": 3.0}) == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert rewards("length_penalty", "R5 W9", total=off | {"longest": 0.5, "shortest": 0.5}) == [1.0, 0.0]


def test_length_penalty_finds_lengths_far_above_the_median() -> None:
    # median 110, MAD 10: .6745 * 90 / 10 = 6.07; the short one is as far and costs nothing
    total = {"relative": 0.0, "outlier": 0.5, "outlier_threshold": 6.0}
    assert rewards("length_penalty", "R100 R110 R120 R200 R20", total=total) == [1.0, 1.0, 1.0, 0.5, 1.0]
    higher = total | {"outlier_threshold": 6.1}
    assert rewards("length_penalty", "R100 R110 R120 R200 R20", total=higher) == [1.0] * 5
    # MAD / median = 1 / 101 is below .015
    assert rewards("length_penalty", "R100 R101 R102 R200 R101", total=total) == [1.0] * 5


def test_length_penalty_by_pass_rate_takes_more_from_easy_problems() -> None:
    # two of four are right, the longest of them has 400 tokens; .2 * 1/2 * l / 400
    fields = {"total": {"relative": 0.0}, "pass_rate_weight": 0.2}
    assert rewards("length_penalty", "R200 R400 W600 T800", **fields) == close([0.95, 0.9, 0.0, 0.0])
    assert rewards("length_penalty", "R200 W600 U9", **fields) == close([0.9, 0.0, None])


def test_length_penalty_tells_thinking_from_answer() -> None:
    group = make_lettered("R200 R400 R300")
    thinking = (150, 100, None)
    samples = [replace(s, think_length=n) for s, n in zip(group.samples, thinking, strict=True)]
    group = replace(group, samples=tuple(samples))
    off = {"relative": 0.0}
    # thinking 150, 100, 0: places 0, 1/3, 1 of mean 4/9; answers 50, 300, 300: places 1, 0, 0 of mean 1/3
    by_thinking = rewards("length_penalty", group, total=off, thinking={"relative": 0.9})
    assert by_thinking == close([1 - 0.4, 1 - 0.1, 1 + 0.5])
    by_answer = rewards("length_penalty", group, total=off, answer={"relative": 0.3})
    assert by_answer == close([1.2, 0.9, 0.9])
    # who does not think is neither the shortest nor the longest thinker
    extremes = rewards("length_penalty", group, total=off, thinking={"shortest": 0.5, "longest": 0.25})
    assert extremes == [0.75, 1.5, 1.0]
    # a single thinker is no longer than others
    alone = replace(group, samples=(samples[0], samples[2]))
    assert rewards("length_penalty", alone, total=off, thinking={"longest": 0.25}) == [1.0, 1.0]


def test_by_default_small_differences_are_blown_up_and_a_floor_leaves_them_small() -> None:
    # 100 and 110 tokens: R = 2 and 1.99, std .01 / sqrt(2); A = .005 / (std + 1e-6), with a floor .005 / (.1 + 1e-6)
    std = 0.01 / math.sqrt(2)
    for fields, scale in (({}, std), ({"advantage_min_std": 0.1}, 0.1)):
        [row] = credits("shorterbetter", "R100 R110", **fields)
        wanted = 0.005 / (scale + 1e-6)
        assert [credit.advantage for credit in row] == pytest.approx([wanted, -wanted], rel=1e-9)
