"""Evaluation: what counts how, the same seeds at every stage, a table that refuses foreign rows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from egrc_mega.config.schema import EvaluationSection
from egrc_mega.errors import RunError
from egrc_mega.evaluation.runner import evaluate
from egrc_mega.evaluation.store import add_points, has_stage, read_responses, read_table
from egrc_mega.testing.samples import PROMPT, make_sample
from egrc_mega.types import Completion, FinishReason, Grade, Prompt, RolloutRequest, Sample

SECTION = EvaluationSection(data="eval.jsonl", num_problems=6, max_new_tokens=20, temperatures=(0.6, 1.0))
OUTCOMES = [
    make_sample(range(4)),
    make_sample(range(8)),
    make_sample(range(6), grade=Grade.WRONG),
    make_sample(range(6), grade=Grade.UNGRADED),
    make_sample(range(20), finish=FinishReason.LENGTH),
    make_sample(range(10), well_formed=False),
]


def measure(stage: str, outcomes: Sequence[Sample], section: EvaluationSection = SECTION):
    seen: list[RolloutRequest] = []
    prompts = [replace(PROMPT, id=f"p{i}", text=f"problem {i}") for i in range(len(outcomes))]

    def generate(requests: Sequence[RolloutRequest]) -> list[Completion]:
        seen.extend(requests)
        return [outcome.completion for outcome in outcomes]

    def judge(pairs: Sequence[tuple[Prompt, Completion]]) -> list[Sample]:
        return [replace(o, prompt=prompt) for o, (prompt, _completion) in zip(outcomes, pairs, strict=True)]

    return evaluate(prompts, section, stage, (2,), generate, judge), seen


def test_ungraded_samples_leave_the_accuracy_and_cut_ones_count_as_wrong_at_full_length() -> None:
    measurements, _seen = measure("base", OUTCOMES)
    point = measurements[0].point
    assert point["accuracy"] == pytest.approx(3 / 5)
    assert point["mean_length"] == pytest.approx((4 + 8 + 6 + 6 + 20 + 10) / 6)
    assert (point["n"], point["num_ungraded"], point["num_truncated"]) == (6, 1, 1)
    assert point["well_formed"] == pytest.approx(5 / 6)


def test_every_stage_gets_the_same_seeds_and_every_request_its_own_id() -> None:
    _, first = measure("base", OUTCOMES)
    _, second = measure("explore", OUTCOMES)
    assert [r.seed for r in first] == [r.seed for r in second]
    assert len({r.seed for r in first}) == 12
    assert len({r.rid for r in first + second}) == 24
    assert {r.sampling.max_new_tokens for r in first} == {20}


def test_the_table_gets_l_acc_against_its_own_base_and_replaces_a_row_measured_again(tmp_path: Path) -> None:
    add_points(tmp_path, SECTION, measure("base", OUTCOMES)[0])
    short = [make_sample(range(3)) for _ in OUTCOMES]
    add_points(tmp_path, SECTION, measure("compress", OUTCOMES)[0])
    add_points(tmp_path, SECTION, measure("compress", short)[0])
    points = read_table(tmp_path)["points"]
    assert [(p["stage"], p["temperature"]) for p in points] == [
        (stage, t) for stage in ("base", "compress") for t in (0.6, 1.0)
    ]
    assert points[0]["l_acc"] == 0.0
    assert points[2]["l_acc"] == pytest.approx((1 - 3 / 9) ** 0.5)
    assert has_stage(tmp_path, "compress", (0.6, 1.0))
    assert not has_stage(tmp_path, "compress", (0.6, 0.8))
    assert len(read_responses(tmp_path)) == 24


def test_rows_of_another_protocol_are_refused(tmp_path: Path) -> None:
    add_points(tmp_path, SECTION, measure("base", OUTCOMES)[0])
    other = SECTION.model_copy(update={"max_new_tokens": 30})
    before = (tmp_path / "evaluation.json").read_bytes()
    with pytest.raises(RunError, match="the protocol is"):
        add_points(tmp_path, other, measure("explore", OUTCOMES, other)[0])
    assert (tmp_path / "evaluation.json").read_bytes() == before
