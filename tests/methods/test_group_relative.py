"""Methods that reward accuracy alone and differ in what they make of it: numbers are worked out from the formulas."""

import math
from dataclasses import replace
from typing import Any

import pytest

from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import Credit
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import make_lettered, view_of
from egrc_mega.types import Grade


def section(name: str, **fields: Any) -> StageSection:
    return METHODS[name].Config(**fields)


def credits(stage: StageSection, *groups: str) -> list[list[Credit]]:
    method = build_method(stage)
    return method.credit([make_lettered(group) for group in groups], view_of(method))


def advantages(stage: StageSection, *groups: str) -> list[list[Any]]:
    return [[credit.advantage for credit in row] for row in credits(stage, *groups)]


def rewards(stage: StageSection, group: str) -> list[float | None]:
    return [credit.reward for credit in credits(stage, group)[0]]


MIXED = "R200 R400 W600 T800 U1000"
"""Rewards 1, 1, 0, 0 and none: mean 1/2, deviation sqrt(4 (1/2)^2 / 3) = sqrt(1/3)."""
STD = math.sqrt(1 / 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", 0.5 / (STD + 1e-6)),
        ("gspo", 0.5 / (STD + 1e-6)),
        ("cispo", 0.5 / (STD + 1e-6)),
        ("dr_grpo", 0.5),
        # against the mean of the three others: 1 - 1/3
        ("rloo", 2 / 3),
    ],
)
def test_accuracy_is_compared_within_the_group_and_what_is_cut_off_is_wrong(name: str, expected: float) -> None:
    [row] = credits(section(name), MIXED)
    assert [credit.reward for credit in row] == [1.0, 1.0, 0.0, 0.0, None]
    assert [c.advantage for c in row] == pytest.approx([expected, expected, -expected, -expected, 0.0], rel=1e-12)
    assert [credit.kept for credit in row] == [True] * 4 + [False]


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "dr_grpo", "rloo"])
@pytest.mark.parametrize("group", ["R9 R8 R7", "W9 W8 T7", "R9", "W9", "U9 U8", "R9 U8"])
def test_a_group_that_agrees_or_has_one_graded_response_teaches_nothing(name: str, group: str) -> None:
    [row] = credits(section(name), group)
    assert [(credit.advantage, credit.kept) for credit in row] == [(0.0, False)] * len(row)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo"])
def test_the_fields_of_the_comparison_are_the_sections(name: str) -> None:
    # rewards 1, 0: mean 1/2, deviation sqrt(1/2)
    std = section(name, advantage_normalisation="std", advantage_eps=0.5)
    assert advantages(std, "R5 W5")[0] == pytest.approx([0.5 / (math.sqrt(0.5) + 0.5), -0.5 / (math.sqrt(0.5) + 0.5)])
    floor = section(name, advantage_normalisation="std", advantage_min_std=2.0)
    assert advantages(floor, "R5 W5")[0] == pytest.approx([0.5 / (2 + 1e-6), -0.5 / (2 + 1e-6)])
    assert advantages(section(name, advantage_normalisation="mean_only"), "R5 W5")[0] == [0.5, -0.5]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo"])
def test_the_reward_is_a_sum_of_terms_by_name(name: str) -> None:
    terms = [{"reward": "accuracy", "wrong": -1}, {"reward": "format", "weight": 0.5}]
    assert rewards(section(name, rewards=terms), MIXED) == [1.5, 1.5, -0.5, -1.0, None]


TWO_GROUPS = (MIXED, "W100 W300")
"""a is 1/2, 1/2, -1/2, -1/2 over 200, 400, 600, 800 tokens, and 0 over 100 and 300: 2400 tokens."""


def test_reinforce_pp_whitens_over_the_tokens_of_the_batch() -> None:
    mean = (0.5 * 600 - 0.5 * 1400) / 2400
    variance = (600 * (0.5 - mean) ** 2 + 1400 * (-0.5 - mean) ** 2 + 400 * mean**2) / 2399
    deviation = math.sqrt(variance + 1e-8)
    up, down, none = ((a - mean) / deviation for a in (0.5, -0.5, 0.0))
    first, second = advantages(section("reinforce_pp"), *TWO_GROUPS)
    assert first == pytest.approx([up, up, down, down, 0.0], rel=1e-12)
    # the second group agrees, and is moved with the batch
    assert second == pytest.approx([none, none], rel=1e-12)


def test_reinforce_pp_without_a_baseline_whitens_the_rewards_themselves() -> None:
    mean = 600 / 2400
    deviation = math.sqrt((600 * 0.75**2 + 1800 * 0.25**2) / 2399 + 1e-8)
    first, second = advantages(section("reinforce_pp", baseline="none"), *TWO_GROUPS)
    up, down = (1 - mean) / deviation, -mean / deviation
    assert first == pytest.approx([up, up, down, down, 0.0], rel=1e-12)
    assert second == pytest.approx([down, down], rel=1e-12)


def test_reinforce_pp_counts_only_tokens_of_graded_responses() -> None:
    [with_ungraded], [without] = (advantages(section("reinforce_pp"), g) for g in ("R20 W40 U5000", "R20 W40"))
    assert with_ungraded == [*without, 0.0]


@pytest.mark.parametrize("name", ["reinforce_pp", "dler"])
@pytest.mark.parametrize("groups", [("R9 R8",), ("W9 W8", "R3 R4"), ("R9",), ("U9 U8",), ("R1",)])
def test_a_batch_without_a_difference_is_whitened_to_nothing(name: str, groups: tuple[str, ...]) -> None:
    assert {a for row in advantages(section(name), *groups) for a in row} == {0.0}


def test_dler_pays_nothing_for_what_is_cut_off_and_whitens_as_its_code_does() -> None:
    mean = (0.5 * 600 - 0.5 * 1400) / 2000
    deviation = math.sqrt((600 * (0.5 - mean) ** 2 + 1400 * (-0.5 - mean) ** 2) / 1999 + 1e-8)
    assert rewards(section("dler"), MIXED) == [1.0, 1.0, 0.0, 0.0, None]
    up, down = (0.5 - mean) / deviation, (-0.5 - mean) / deviation
    assert advantages(section("dler"), MIXED)[0] == pytest.approx([up, up, down, down, 0.0], rel=1e-12)


def test_dlers_code_pays_nothing_for_a_wrong_answer_that_is_cut_off() -> None:
    group = make_lettered("R200 T800")
    wrong = replace(group, samples=(group.samples[0], replace(group.samples[1], grade=Grade.WRONG)))
    method = build_method(section("dler", variant="code"))
    assert [credit.reward for credit in method.credit([wrong], view_of(method))[0]] == [1.0, 0.0]


def test_dlers_code_pays_a_tenth_for_a_right_answer_that_is_cut_off() -> None:
    code = section("dler", variant="code")
    assert rewards(code, MIXED) == [1.0, 1.0, 0.0, 0.1, None]
    # the group's mean is 2.1 / 4
    a = [0.475, 0.475, -0.525, -0.425]
    tokens = [200, 400, 600, 800]
    mean = sum(n * x for n, x in zip(tokens, a, strict=True)) / 2000
    deviation = math.sqrt(sum(n * (x - mean) ** 2 for n, x in zip(tokens, a, strict=True)) / 1999 + 1e-8)
    assert advantages(code, MIXED)[0] == pytest.approx([*((x - mean) / deviation for x in a), 0.0], rel=1e-12)


@pytest.mark.parametrize(
    ("group", "paper", "code"),
    [
        ("R3 T4", True, False),
        ("W3 T4", False, True),
        ("R3 W4", True, True),
        ("R3 R4", False, False),
        ("R3 U4", False, False),
    ],
)
def test_dlers_filter_asks_for_answers_within_the_cap_and_its_codes_for_all(
    group: str, paper: bool, code: bool
) -> None:
    for variant, kept in (("paper", paper), ("code", code)):
        method = build_method(section("dler", variant=variant))
        assert method.keep(make_lettered(group), view_of(method)) is kept
        unfiltered = build_method(section("dler", variant=variant, rollout={"drop_groups": "never"}))
        assert unfiltered.keep(make_lettered(group), view_of(unfiltered))


def test_losses_are_those_of_the_sources() -> None:
    def loss(name: str) -> Any:
        return section(name).loss

    assert (loss("grpo").agg, loss("grpo").ratio, loss("grpo").eps_clip_high) == ("seq-mean-token-mean", "token", 0.2)
    dr_grpo = loss("dr_grpo")
    assert (dr_grpo.agg, dr_grpo.sum_divisor, dr_grpo.ratio) == ("seq-mean-token-sum", 3000, "token")
    assert (loss("rloo").agg, loss("rloo").sum_divisor, loss("rloo").ratio) == ("seq-mean-token-sum", 1, "none")
    assert (loss("reinforce_pp").agg, loss("reinforce_pp").ratio) == ("token-mean", "token")
    gspo = loss("gspo")
    assert (gspo.agg, gspo.ratio, gspo.eps_clip, gspo.eps_clip_high) == ("seq-mean-token-mean", "sequence", 3e-4, 4e-4)
    cispo = loss("cispo")
    assert (cispo.agg, cispo.ratio, cispo.eps_clip_high, cispo.tis_cap) == ("token-mean", "capped", 4.0, None)
    dler = loss("dler")
    assert (dler.agg, dler.ratio, dler.eps_clip, dler.eps_clip_high) == ("token-mean", "token", 0.2, 0.28)
    assert (dler.dual_clip, dler.kl_coef) == (10.0, 5e-4)
    assert (section("dler").rollout.n, section("dler").rollout.drop_groups) == (16, "all_right_or_wrong")
    assert build_method(section("dler")).longest == 4000
    assert build_method(section("dler", rollout={"max_new_tokens": 90})).longest == 90


def test_cispo_refuses_what_would_not_cap_its_ratio() -> None:
    def fields(**given: Any) -> list[str]:
        return [line.partition(":")[0] for line in build_method(section("cispo", **given)).problems()]

    assert fields() == []
    assert fields(optim={"num_updates_per_rollout": 16}) == []
    assert fields(loss={"ratio": "token"}) == fields(loss={"ratio": "none"}) == ["loss.ratio"]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo", "dler"])
def test_groups_of_one_are_refused_where_the_group_is_the_statistic(name: str) -> None:
    assert any(line.startswith("rollout.n: 1,") for line in build_method(section(name, rollout={"n": 1})).problems())
    plain = build_method(section("reinforce_pp", baseline="none", rollout={"n": 1}))
    assert list(plain.problems()) == []
