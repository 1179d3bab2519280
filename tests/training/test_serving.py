"""What a judged sample says of its completion, whatever the tokenizer and the graders are."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from egrc_mega.grading.extract import extract_answer
from egrc_mega.grading.pool import Pair
from egrc_mega.methods.method import Need
from egrc_mega.testing.samples import PROBLEM, PROMPT_IDS, make_sample
from egrc_mega.training.serving import Serving
from egrc_mega.types import Ask, Drawn, FinishReason, Grade, RolloutRequest, Sample, Sampling, Verdict, token_array

TEXTS = {1: "so </think> \\boxed{0}", 2: "so \\boxed{0}", 3: "a </think> b </think> \\boxed{1}", 4: "</think> 0"}
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=9, stop_token_ids=())


class Graders:
    """Right when the answer is the gold one, ungraded where there is none."""

    grader = SimpleNamespace(
        extract=extract_answer, without_answer=lambda *_: Verdict(grade=Grade.UNGRADED, reason="no answer")
    )

    def __init__(self) -> None:
        self.pairs: list[Pair] = []

    def grade(self, pairs: Sequence[Pair]) -> list[Verdict]:
        self.pairs += pairs
        return [
            Verdict(grade=Grade.RIGHT if answer == gold else Grade.WRONG, reason=f"by {hints.profile}")
            for answer, gold, hints in pairs
        ]


class Renderer:
    opens_thinking = True

    def thinks(self, prompt_ids: np.ndarray) -> bool:
        return self.opens_thinking

    def decode(self, output_ids: np.ndarray) -> str:
        return TEXTS[int(output_ids[0])]

    def think_length(self, output_ids: np.ndarray) -> int:
        return 10 + int(output_ids[0])

    def token_ends(self, output_ids: np.ndarray) -> np.ndarray:
        return np.arange(len(output_ids), dtype=np.int32) + 3


def drawn(token: int, finish: FinishReason = FinishReason.STOP, num_forced: int = 0) -> Drawn:
    request = RolloutRequest(
        rid="r",
        prompt_id="p",
        prompt_ids=PROMPT_IDS,
        forced_ids=token_array([token] * num_forced),
        sampling=SAMPLING,
        seed=0,
    )
    completion = make_sample([token, 9, 9], finish=finish, num_forced=num_forced).completion
    return Drawn(problem=PROBLEM, ask=Ask(tag=f"t{token}"), request=request, completion=completion)


def judged(*asked: Drawn, needs: frozenset[Need] = frozenset()) -> list[Sample]:
    serving: Any = SimpleNamespace(renderer=Renderer(), graders=Graders())
    return Serving.judge(serving, asked, needs)


def test_samples_come_in_order_with_what_was_asked_what_came_back_and_the_verdict() -> None:
    asked = [drawn(2), drawn(1), drawn(3)]
    found = judged(*asked)
    assert [sample.text for sample in found] == [TEXTS[2], TEXTS[1], TEXTS[3]]
    assert [sample.grade for sample in found] == [Grade.UNGRADED, Grade.RIGHT, Grade.WRONG]
    assert [sample.reason for sample in found] == ["no answer", "by default", "by default"]
    assert [sample.ask.tag for sample in found] == ["t2", "t1", "t3"]
    assert [sample.think_length for sample in found] == [12, 11, 13]
    for sample, one in zip(found, asked, strict=True):
        assert sample.completion is one.completion and sample.problem is one.problem
        assert sample.prompt_ids is one.request.prompt_ids
        assert (sample.entropies, sample.reference_logprobs) == (None, None)


def test_each_answer_is_held_against_its_own_problems_gold() -> None:
    graders = Graders()
    serving: Any = SimpleNamespace(renderer=Renderer(), graders=graders)
    asked = [replace(drawn(1), problem=replace(PROBLEM, key=gold, answer=gold)) for gold in ("7", "0", "3")]
    found = Serving.judge(serving, asked, frozenset())
    assert [pair[:2] for pair in graders.pairs] == [("0", "7"), ("0", "0"), ("0", "3")]
    assert [sample.grade for sample in found] == [Grade.WRONG, Grade.RIGHT, Grade.WRONG]


@pytest.mark.parametrize(
    ("finish", "expected"), [(FinishReason.STOP, True), (FinishReason.LENGTH, False), (FinishReason.ABORT, False)]
)
def test_only_what_a_stop_token_ended_is_well_formed(finish: FinishReason, expected: bool) -> None:
    [sample] = judged(drawn(1, finish))
    assert sample.well_formed is expected
    assert not any(sample.well_formed for sample in judged(*(drawn(token) for token in (2, 3, 4))))


def test_forced_tokens_are_counted_and_token_ends_are_there_for_who_needs_them() -> None:
    [sample] = judged(drawn(1, num_forced=2))
    assert (sample.num_forced, sample.token_ends) == (2, None)
    [sample] = judged(drawn(1), needs=frozenset({"token_ends", "entropies"}))
    assert sample.token_ends is not None and sample.token_ends.tolist() == [3, 4, 5]
    assert sample.num_forced == 0


def test_a_prompt_that_opens_no_thinking_demands_no_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Renderer, "opens_thinking", False)
    [sample] = judged(drawn(2))
    assert (sample.grade, sample.well_formed) == (Grade.RIGHT, True)
