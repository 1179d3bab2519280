"""LC-R1 and the cosine reward: what single tokens of a response teach beside the response itself."""

import math
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

from egrc_mega.errors import DataError
from egrc_mega.methods.cosine import CosineSection
from egrc_mega.methods.lc_r1 import LcR1Section
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import Credit
from egrc_mega.methods.repeats import repeated_tokens
from egrc_mega.methods.thoughts import answered_after
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import batch_of, make_group, make_sample, view_of
from egrc_mega.types import Ask, FinishReason, Grade, Problem, Sample

WRONG, UNGRADED = Grade.WRONG, Grade.UNGRADED


def credited(section: StageSection, *samples: Sample) -> list[Credit]:
    method = build_method(section)
    [row] = method.credit([make_group(samples)], view_of(method))
    return row


def thought(length: int, think: int | None, valid: int = 0, **fields: object) -> Sample:
    """A response of which `think` tokens stand before `</think>`, and the answer after `valid` of them."""
    ask = Ask(facts={"valid_prefix": float(valid)})
    sample = make_sample(range(100, 100 + length), ask=ask, **fields)
    return replace(sample, think_length=None if think is None else think + 1)


def test_lc_r1_cuts_what_is_thought_beyond_the_answer_and_pays_the_end_of_thinking() -> None:
    samples = [thought(20, 10, 4), thought(12, 5), thought(30, 8, 2, grade=WRONG), thought(7, 3, 1, grade=UNGRADED)]
    first, second, wrong, ungraded = credited(LcR1Section(), *samples)
    # tokens before the stop token: 20 - (10 - 4) - 1 = 13, 12 - 1 = 11, and a wrong one is not cut: 29
    lengths = [1 - n / (13 + 1e-4) for n in (13, 11, 29)]
    rewards = [2 + lengths[0], 2 + lengths[1], 1 + lengths[2]]
    assert [c.reward for c in (first, second, wrong)] == pytest.approx(rewards, abs=1e-12)
    base = [r - mean(rewards) for r in rewards]
    # `</think>` is at 10, and at 4 after the cut; of 10 tokens of thinking 4 were needed
    expected = np.full(14, base[0])
    expected[4] += 1 - 4 / (10 + 1e-4)
    assert first.advantage == pytest.approx(expected, abs=1e-12)
    assert first.edit is not None
    assert first.edit.output_ids.tolist() == [*range(100, 104), *range(110, 120)]
    assert first.edit.first_changed == 4
    # the answer never stands in the thinking: its end loses
    expected = np.full(12, base[1])
    expected[5] -= 1
    assert second.advantage == pytest.approx(expected, abs=1e-12)
    assert second.edit is None
    assert (wrong.advantage, wrong.edit) == (pytest.approx(base[2], abs=1e-12), None)
    assert (ungraded.reward, ungraded.advantage, ungraded.kept) == (None, 0.0, False)


def test_a_fully_right_response_without_an_end_of_thinking_is_compared_and_not_cut() -> None:
    # what a recorded batch may say; its reward is that of every fully right response
    first, second = credited(LcR1Section(), thought(20, None), thought(11, 5, 5))
    assert (first.reward, first.edit) == (pytest.approx(2 + 1 - 19 / (19 + 1e-4)), None)
    assert first.advantage == pytest.approx((first.reward - second.reward) / 2)


def test_thinking_that_is_longer_than_its_response_is_told_by_name() -> None:
    with pytest.raises(DataError, match="a response of 7 tokens cannot hold 11 of thinking and its end"):
        credited(LcR1Section(), thought(7, 10), thought(12, 5))


def test_what_is_trained_on_is_the_cut_response_with_the_advantage_of_each_token() -> None:
    samples = [thought(20, 10, 4), thought(30, 8, grade=WRONG)]
    [[cut, whole]] = batch_of([make_group(samples)], LcR1Section()).updates
    assert cut.output_ids.tolist() == [*range(100, 104), *range(110, 120)]
    assert np.isnan(cut.rollout_logprobs).tolist() == [False] * 4 + [True] * 10
    assert np.flatnonzero(cut.advantages != cut.advantages[0]).tolist() == [4]
    assert len(whole.output_ids) == 30
    assert len({*whole.advantages.tolist()}) == 1


def test_lc_r1_pays_no_length_in_a_group_without_a_fully_right_response() -> None:
    samples = [thought(9, 4, 2, well_formed=False), thought(7, 3, grade=WRONG), thought(8, None, well_formed=False)]
    row = credited(LcR1Section(), *samples, thought(6, 2, 1, finish=FinishReason.LENGTH, well_formed=False))
    # right but ill formed, well formed but wrong, right but ill formed, cut off
    assert [credit.reward for credit in row] == [1.0, 1.0, 1.0, 0.0]
    assert [credit.advantage for credit in row] == [0.25, 0.25, 0.25, -0.75]


def test_a_cut_off_response_has_no_stop_token_to_take_away() -> None:
    samples = [thought(11, 5, 5), thought(21, None, grade=WRONG, well_formed=False, finish=FinishReason.LENGTH)]
    right, cut = credited(LcR1Section(), *samples)
    assert right.reward == pytest.approx(2 + 1 - 10 / (10 + 1e-4), abs=1e-12)
    assert cut.reward == pytest.approx(1 - 21 / (10 + 1e-4), abs=1e-12)


def test_a_response_that_ends_where_it_has_the_answer_is_left_as_it_is() -> None:
    right, _wrong = credited(LcR1Section(end_weight=2.0), thought(11, 5, 5), thought(11, 5, grade=WRONG))
    assert right.edit is None
    values = np.asarray(right.advantage)
    assert values[5] - values[0] == pytest.approx(2 * (1 - 5 / (5 + 1e-4)), abs=1e-12)


def test_a_response_without_thinking_loses_at_its_first_token() -> None:
    right, _wrong = credited(LcR1Section(), thought(6, 0), thought(6, 2, grade=WRONG))
    values = np.asarray(right.advantage)
    assert (values[1:] - values[0]).tolist() == pytest.approx([1.0] * 5)


def test_a_group_with_one_verdict_teaches_nothing() -> None:
    row = credited(LcR1Section(), thought(11, 5, 2), thought(11, 5, grade=UNGRADED))
    assert [(credit.advantage, credit.kept) for credit in row] == [(0.0, False), (0.0, False)]
    # 11 - (5 - 2) - 1 tokens are left, and nobody has more
    assert row[0].reward == pytest.approx(3 - 7 / (7 + 1e-4), abs=1e-12)


def test_equal_responses_differ_at_the_end_of_their_thinking_only() -> None:
    row = credited(LcR1Section(), thought(11, 5, 2), thought(11, 5, 2))
    assert [np.flatnonzero(credit.advantage).tolist() for credit in row] == [[2], [2]]
    assert all(credit.kept for credit in row)


@pytest.mark.parametrize(
    ("text", "ends", "think", "expected"),
    [
        # tokens: "so ", "4", "2", " hm ", "</think>", "42"
        ("so 42 hm </think>42", [3, 4, 5, 9, 17, 19], 4, 3),
        ("so 41 hm </think>42", [3, 4, 5, 9, 17, 19], 4, 0),
        ("42</think>", [2, 10], 1, 1),
        # the answer ends within the token that ends the thinking
        ("so 42</think>42", [3, 13, 15], 1, 0),
        ("no answer", [9], None, 0),
    ],
)
def test_the_answer_is_looked_for_in_the_thinking(text: str, ends: list[int], think: int | None, expected: int) -> None:
    sample = make_sample(range(len(ends)), problem=Problem(key="k", text="", answer="42"))
    found = replace(sample, text=text, token_ends=np.array(ends), think_length=None if think is None else think + 1)
    assert answered_after(found) == expected
    assert answered_after(replace(found, token_ends=None)) == 0


def sized(length: int, cap: int | None = 100, **fields: object) -> Sample:
    return make_sample(range(length), ask=Ask(max_new_tokens=cap), **fields)


def test_the_cosine_makes_right_answers_better_short_and_wrong_ones_better_long() -> None:
    samples = [sized(25), sized(50), sized(25, grade=WRONG), sized(75, grade=WRONG), sized(30, grade=UNGRADED)]
    row = credited(CosineSection(), *samples)
    # 1 + 1/2 (1 + cos(pi / 4)), 1 + 1/2 (1 + 0), 0 - 10/2 (1 + cos(pi / 4)), 0 - 10/2 (1 + cos(3 pi / 4))
    root = math.sqrt(0.5)
    expected = [1 + (1 + root) / 2, 1.5, -5 * (1 + root), -5 * (1 - root)]
    assert [credit.reward for credit in row] == [*map(pytest.approx, expected), None]
    z = [(r - mean(expected)) / (stdev(expected) + 1e-6) for r in expected]
    assert [credit.advantage for credit in row] == pytest.approx([*z, 0.0], abs=1e-12)


def test_a_response_within_the_margin_of_the_cap_gets_the_worst_right_or_wrong() -> None:
    samples = [sized(84), sized(83), sized(84, grade=WRONG), sized(100, finish=FinishReason.LENGTH)]
    rewards = [credit.reward for credit in credited(CosineSection(), *samples)]
    assert [rewards[i] for i in (0, 2, 3)] == [-10.0, -10.0, -10.0]
    assert rewards[1] == pytest.approx(1 + (1 + math.cos(0.83 * math.pi)) / 2)


def test_the_cap_is_the_asks_or_else_the_stages() -> None:
    row = credited(CosineSection(rollout={"max_new_tokens": 50}), sized(25, None), sized(25))
    assert [credit.reward for credit in row] == pytest.approx([1.5, 1 + (1 + math.sqrt(0.5)) / 2])


def test_a_token_of_a_repeated_run_costs_and_those_before_it_pay_discounted() -> None:
    section = CosineSection(repeat_ngram=2, repeat_penalty=-0.5, repeat_gamma=0.5)
    # the run 1 2 stands again at tokens 3 and 4
    repeating = make_sample([1, 2, 3, 1, 2], ask=Ask(max_new_tokens=100))
    row = credited(section, repeating, sized(5, grade=WRONG), make_sample([1, 1, 1], grade=UNGRADED))
    base = credited(CosineSection(repeat_penalty=0.0), repeating, sized(5, grade=WRONG))[0].advantage
    to_come = [-0.09375, -0.1875, -0.375, -0.75, -0.5]
    assert np.asarray(row[0].advantage) == pytest.approx([base + cost for cost in to_come], abs=1e-12)
    assert row[1].advantage == pytest.approx(-base, abs=1e-9)
    assert (row[2].advantage, row[2].kept) == (0.0, False)


def test_a_repeated_run_costs_also_where_the_group_agrees() -> None:
    section = CosineSection(repeat_ngram=2)
    row = credited(section, make_sample([1, 2, 1, 2]), sized(4, None))
    assert row[0].kept
    assert not row[1].kept
    assert np.asarray(row[0].advantage)[3] == -0.05


def test_repeated_tokens_are_those_of_every_run_that_stood_before() -> None:
    ids = np.array([1, 2, 3, 9, 1, 2, 3, 1, 2], np.int32)
    assert np.flatnonzero(repeated_tokens(ids, 3)).tolist() == [4, 5, 6]
    assert np.flatnonzero(repeated_tokens(ids, 2)).tolist() == [4, 5, 6, 7, 8]
    assert not repeated_tokens(ids, 10).any()
