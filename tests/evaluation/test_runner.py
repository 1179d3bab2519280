"""A measurement: what counts how, and the same seeds for every subject."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.evaluation.records import Subject
from egrc_mega.evaluation.runner import NUM_SHOWN, Asked, Measurement, measure
from egrc_mega.evaluation.statistics.intervals import bootstrap_interval, wilson_interval
from egrc_mega.seeds import derive_seed
from egrc_mega.testing.points import make_protocol, make_subject
from egrc_mega.testing.samples import PROBLEM, PROMPT_IDS, make_sample
from egrc_mega.types import Completion, Drawn, FinishReason, Grade, RolloutRequest, Sample

OUTCOMES = [
    make_sample(range(4)),
    make_sample(range(8)),
    make_sample(range(6), grade=Grade.WRONG),
    make_sample(range(6), grade=Grade.UNGRADED),
    make_sample(range(20), finish=FinishReason.LENGTH),
    make_sample(range(10), well_formed=False),
]


def measured(
    outcomes: Sequence[Sample] = OUTCOMES, subject: Subject | None = None, **protocol: object
) -> tuple[Measurement, list[RolloutRequest]]:
    seen: list[RolloutRequest] = []
    asked = [Asked(replace(PROBLEM, key=f"p{i}", text=f"problem {i}"), PROMPT_IDS) for i in range(len(outcomes))]

    def generate(requests: Sequence[RolloutRequest], tell: Any) -> list[Completion]:
        seen.extend(requests)
        return [outcome.completion for outcome in outcomes]

    def judge(drawn: Sequence[Drawn], _needs: frozenset[str]) -> list[Sample]:
        return [replace(outcome, problem=one.problem) for outcome, one in zip(outcomes, drawn, strict=True)]

    nothing: Any = SimpleNamespace(completions={}, add=lambda completions: None)
    return measure(asked, subject or make_subject(), make_protocol(**protocol), generate, judge, nothing), seen


def test_ungraded_samples_leave_the_accuracy_and_cut_ones_count_as_wrong_at_full_length() -> None:
    point = measured()[0].point
    assert point.accuracy == pytest.approx(3 / 5)
    assert point.mean_length == pytest.approx((4 + 8 + 6 + 6 + 20 + 10) / 6)
    assert (point.n, point.num_ungraded, point.num_truncated) == (6, 1, 1)
    assert point.well_formed == pytest.approx(5 / 6)


def test_what_is_ungraded_counts_in_every_figure_but_the_accuracy() -> None:
    cut = make_sample(range(20), grade=Grade.UNGRADED, finish=FinishReason.LENGTH, well_formed=False)
    point = measured([make_sample(range(4)), cut])[0].point
    assert (point.accuracy, point.mean_length, point.well_formed) == (1.0, 12.0, 0.5)
    assert (point.n, point.num_ungraded, point.num_truncated) == (2, 1, 1)
    assert "accuracy 100.0% (1 of 2 ungraded), mean length 12.0 on 2 responses" in point.line()


def test_the_reasons_of_all_verdicts_are_counted() -> None:
    reasons = ["equal text", "no box", "too slow", "equal text", "", "no box"]
    outcomes = [replace(outcome, reason=reason) for outcome, reason in zip(OUTCOMES, reasons, strict=True)]
    measurement = measured(outcomes)[0]
    assert measurement.point.reasons == {"equal text": 2, "no box": 2, "too slow": 1}
    assert [response.reason for response in measurement.responses] == reasons


def test_without_a_graded_response_there_is_no_accuracy() -> None:
    point = measured([make_sample(range(4), grade=Grade.UNGRADED)])[0].point
    assert (point.accuracy, point.accuracy_ci) == (None, (0.0, 1.0))
    assert "accuracy - (1 of 1 ungraded), mean length 4.0 on 1 responses" in point.line()


def test_every_subject_gets_the_same_seeds_and_every_request_its_own_id() -> None:
    asked = [
        measured(subject=make_subject(label, weights=label), temperature=temperature)[1]
        for label in ("base", "explore")
        for temperature in (0.6, 1.0)
    ]
    seeds = [[request.seed for request in requests] for requests in asked]
    assert seeds[:2] == seeds[2:]
    assert len({seed for row in seeds[:2] for seed in row}) == 12
    assert len({request.rid for requests in asked for request in requests}) == 24


def test_requests_are_as_the_protocol_says() -> None:
    _measurement, requests = measured(temperature=0.7, top_p=0.9, max_new_tokens=33, stop_token_ids=(2, 5))
    for request in requests:
        assert (request.sampling.temperature, request.sampling.top_p) == (0.7, 0.9)
        assert (request.sampling.max_new_tokens, request.sampling.stop_token_ids) == (33, (2, 5))


def test_each_request_has_its_problem_and_a_seed_of_protocol_temperature_and_number() -> None:
    _measurement, requests = measured(temperature=0.6, seed=7)
    assert [request.seed for request in requests] == [derive_seed(7, "0.6", i) for i in range(6)]
    assert [request.prompt_id for request in requests] == [f"p{i}" for i in range(6)]
    assert all(request.prompt_ids is PROMPT_IDS and not len(request.forced_ids) for request in requests)
    other = measured(temperature=0.6, seed=8)[1]
    assert not {request.seed for request in requests} & {request.seed for request in other}


def test_a_point_has_the_intervals_of_its_own_responses_and_its_protocol() -> None:
    point = measured(temperature=0.7)[0].point
    assert point.accuracy_ci == wilson_interval(3, 5)
    assert point.mean_length_ci == bootstrap_interval([4.0, 8.0, 6.0, 6.0, 20.0, 10.0])
    assert (point.temperature, point.protocol) == (0.7, make_protocol(temperature=0.7).key)


def test_a_response_is_kept_with_what_it_was() -> None:
    first, *_others, cut, _last = measured()[0].responses
    assert (first.problem, first.gold, first.grade, first.length, first.truncated) == (
        "problem 0",
        "0",
        "right",
        4,
        False,
    )
    assert (cut.length, cut.truncated) == (20, True)


def test_the_point_is_the_subjects_and_the_first_responses_are_kept() -> None:
    subject = make_subject("compress", 1, 50)
    measurement, _requests = measured([make_sample(range(3))] * (NUM_SHOWN + 5), subject)
    point = measurement.point
    assert Subject(label=point.label, ordinal=point.ordinal, step=point.step, weights=point.weights) == subject
    assert [response.problem for response in measurement.responses] == [f"problem {i}" for i in range(NUM_SHOWN)]
    assert {(r.weights, r.protocol) for r in measurement.responses} == {(point.weights, point.protocol)}
