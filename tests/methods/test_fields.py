"""Every field of the paper's stages and of three rivals moves what they do: none is ignored, none is a constant."""

from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.method import build_method
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import Ask, FinishReason, Grade, Group, Problem

PROBLEM = Problem(key="p", text="1 + 1", answer="2", facts={"reference_accuracy": 0.25, "other_accuracy": 0.75})
SMALL: dict[str, dict[str, Any]] = {
    "compress": {"clip_len": 8, "rollout": {"n": 4}},
    "explore": {"clip_len": 8, "rollout": {"n": 4}},
    "dapo": {"max_length": 12, "overlong_buffer": 4, "rollout": {"n": 4}},
    "thinkprune": {"caps": (9, 7, 5), "steps_per_cap": 2, "rollout": {"n": 4}},
    "adaptthink": {"no_thinking_cap": 9, "thinking_cap": 12, "rollout": {"n": 4}},
}
"""Of each method, in a size where every field matters."""
OTHER: dict[str, dict[str, Any]] = {
    "compress": {
        "clip_len": 7,
        "beta": 3.0,
        "shape.kind": "cosine",
        "shape.r": 0.3,
        "shape.len": 11,
        "accept_truncated": True,
    },
    "explore": {
        "clip_len": 7,
        "reward.answer": 0.5,
        "reward.format": 0.4,
        "reward.length_slope": 0.125,
        "reward.length_unit": 3,
        "reward.length_floor": -0.5,
        "reward.length_steps": "ceil",
        "reward.length_of": "right",
        "reward.more": ({"reward": "accuracy", "weight": 0.5},),
        "advantage_scope": "batch",
        "advantage_normalisation": "mean_only",
        "advantage_min_std": 9.0,
        "advantage_eps": 0.5,
    },
    "dapo": {
        "max_length": 11,
        "overlong_buffer": 3,
        "rewards": ({"reward": "format"},),
        "advantage_normalisation": "mean_only",
        "advantage_min_std": 9.0,
        "advantage_eps": 0.5,
    },
    "thinkprune": {
        "variant": "code",
        "caps": (8, 7, 5),
        "steps_per_cap": 1,
        "system": "At most {cap}.",
        "advantage_eps": 0.5,
    },
    "adaptthink": {
        "delta": 0.5,
        "no_thinking": "So",
        "no_thinking_cap": 8,
        "thinking": "Well",
        "thinking_cap": 13,
        "reference_accuracy": "other_accuracy",
    },
}
"""Another value of each field that a method adds to those of every stage."""


def fields_of(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Names of the fields, those of sections within by a dotted path."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def own_fields(method: str) -> set[str]:
    """Fields that are the method's: how it samples, steps and ends is the stage's business."""
    common = set(fields_of(StageSection))
    return set(fields_of(METHODS[method].Config)) - common


def section_of(method: str, name: str | None = None) -> StageSection:
    """The small section, with another value of one field."""
    fields: dict[str, Any] = dict(SMALL[method])
    if name is not None:
        outer, _dot, inner = name.partition(".")
        fields[outer] = {inner: OTHER[method][name]} if inner else OTHER[method][name]
    return METHODS[method].Config(**fields)


def group(*letters_and_lengths: tuple[str, int]) -> Group:
    """R right, W wrong, F right but not well formed, T right but cut off; one half of each AdaptThink mode."""
    samples = []
    for i, (letter, length) in enumerate(letters_and_lengths):
        samples.append(
            make_sample(
                range(length),
                grade=Grade.WRONG if letter == "W" else Grade.RIGHT,
                well_formed=letter not in "FT",
                finish=FinishReason.LENGTH if letter == "T" else FinishReason.STOP,
                ask=Ask(tag=("no_thinking", "thinking")[i % 2]),
                problem=PROBLEM,
            )
        )
    return make_group(samples)


GROUPS = [
    group(("R", 3), ("W", 8), ("F", 8), ("R", 12)),
    group(("R", 8), ("R", 10), ("W", 40), ("W", 5)),
    group(("T", 6), ("W", 9), ("R", 9), ("R", 3)),
]


def done(section: StageSection) -> list[Any]:
    """Everything that a method says: its plan, its credits, its cap, its figures and its state."""
    method = build_method(section)
    view = view_of(method)
    rows = method.credit(GROUPS, view)
    said: list[Any] = [list(method.plan(PROBLEM, view)), method.longest, dict(method.metrics(GROUPS, rows, view))]
    said.append(method.after_step(view, {}).model_dump())
    for credit in (credit for row in rows for credit in row):
        said.append((np.asarray(credit.advantage).tolist(), credit.reward, dict(credit.terms), credit.kept))
        said.append(credit.forced_logprob)
    return said


@pytest.mark.parametrize("method", sorted(SMALL))
def test_the_table_knows_every_field_of_every_method(method: str) -> None:
    assert set(OTHER[method]) == own_fields(method)


@pytest.mark.parametrize(("method", "field"), [(method, field) for method, row in OTHER.items() for field in row])
def test_another_value_of_a_field_does_something_else(method: str, field: str) -> None:
    assert done(section_of(method)) == done(section_of(method))
    assert done(section_of(method)) != done(section_of(method, field))


def test_the_terms_of_the_explore_reward_are_those_of_its_fields() -> None:
    fields = {"answer": 2.0, "format": 0.5, "length_slope": 0.75, "length_unit": 4, "length_floor": -1.25}
    section = METHODS["explore"].Config(clip_len=8, reward=fields)
    [row] = build_method(section).credit([GROUPS[0]], view_of(build_method(section)))
    assert [credit.terms for credit in row] == [
        {"format": 0.5, "answer": 2.0, "length": 0.0},
        {"format": 0.5, "answer": 0.0, "length": 0.0},
        {"format": 0.0, "answer": 2.0, "length": 0.0},
        {"format": 0.5, "answer": 2.0, "length": -0.75},
    ]
    [row] = build_method(section).credit([GROUPS[1]], view_of(build_method(section)))
    assert [credit.terms["length"] for credit in row] == [0.0, -0.375, -1.25, 0.0]


@pytest.mark.parametrize(
    ("method", "own"), [("compress", 8), ("explore", 16), ("dapo", 12), ("thinkprune", 9), ("adaptthink", 12)]
)
def test_the_longest_response_is_the_methods_own_or_the_cap_that_the_sampling_gives(method: str, own: int) -> None:
    assert build_method(section_of(method)).longest == own
    if method in ("thinkprune", "adaptthink"):  # whose caps are fields of their own
        return
    for cap in (6, 40):
        section = METHODS[method].Config(**SMALL[method] | {"rollout": {"n": 4, "max_new_tokens": cap}})
        assert build_method(section).longest == cap


@pytest.mark.parametrize(
    ("steps", "lost"), [("none", [0.0, -0.125, -0.25, -0.375, -1.0]), ("floor", [0.0, 0.0, -0.25, -0.25, -1.0])]
)
def test_the_length_costs_as_a_line_or_in_whole_steps(steps: str, lost: list[float]) -> None:
    # L = 8: a unit is 2 tokens
    section = METHODS["explore"].Config(clip_len=8, reward={"length_steps": steps})
    groups = [group(*(("R", n) for n in (8, 9, 10, 11, 40)))]
    [row] = build_method(section).credit(groups, view_of(build_method(section)))
    assert [credit.terms["length"] for credit in row] == lost


def test_every_unit_that_has_begun_may_cost_and_the_length_of_right_answers_alone() -> None:
    section = METHODS["explore"].Config(clip_len=8, reward={"length_steps": "ceil", "length_of": "right"})
    groups = [group(("R", 8), ("R", 9), ("R", 10), ("W", 11), ("R", 11))]
    [row] = build_method(section).credit(groups, view_of(build_method(section)))
    assert [credit.terms["length"] for credit in row] == [0.0, -0.25, -0.25, 0.0, -0.5]


def test_the_groups_mean_and_the_batchs_deviation_make_an_advantage_of_both() -> None:
    section = METHODS["explore"].Config(clip_len=8, advantage_scope="group_mean_batch_std")
    rows = build_method(section).credit(GROUPS[:2], view_of(build_method(section)))
    rewards = [credit.reward or 0.0 for row in rows for credit in row]
    scale = stdev(rewards) + 1e-6
    for row in rows:
        mean = fmean(credit.reward or 0.0 for credit in row)
        assert [credit.advantage for credit in row] == pytest.approx([((c.reward or 0.0) - mean) / scale for c in row])


@pytest.mark.parametrize(
    "fields", [{"advantage_normalisation": "mean_only"}, {"rollout": {"drop_groups": "no_advantage"}}]
)
def test_the_batchs_deviation_is_refused_where_there_is_none_to_ask_for(fields: dict[str, Any]) -> None:
    section = METHODS["explore"].Config(advantage_scope="group_mean_batch_std", **fields)
    [line] = build_method(section).problems()
    assert line.startswith("advantage_normalisation" if "rollout" not in fields else "advantage_scope")


def test_a_right_answer_that_the_cap_then_ended_is_paid_where_that_is_asked() -> None:
    groups = [group(("T", 8), ("T", 9), ("F", 4), ("W", 4))]
    for accepted, kept in ((False, [False] * 4), (True, [True, False, False, False])):
        method = build_method(METHODS["compress"].Config(clip_len=8, accept_truncated=accepted))
        [row] = method.credit(groups, view_of(method))
        assert [credit.kept for credit in row] == kept


def test_thinkprunes_code_counts_an_answer_in_a_truncated_response() -> None:
    for variant, rewards in (("paper", [0.0, 0.0, 1.0, 1.0]), ("code", [1.0, 0.0, 1.0, 1.0])):
        method = build_method(METHODS["thinkprune"].Config(variant=variant))
        [row] = method.credit(GROUPS[2:], view_of(method))
        assert [credit.reward for credit in row] == rewards


@pytest.mark.parametrize("scope", ["group", "batch"])
@pytest.mark.parametrize("drops", ["never", "all_right_or_wrong", "no_advantage"])
@pytest.mark.parametrize("n", [1, 2])
def test_explore_refuses_groups_of_one_and_questions_to_groups_about_the_batch_and_nothing_else(
    scope: str, drops: str, n: int
) -> None:
    section = METHODS["explore"].Config(advantage_scope=scope, rollout={"n": n, "drop_groups": drops})
    problems = [line.partition(":")[0] for line in build_method(section).problems()]
    expected = ["rollout.n"] * (scope == "group" and n == 1)
    expected += ["advantage_scope"] * (scope == "batch" and drops == "no_advantage")
    assert problems == expected


@pytest.mark.parametrize(
    ("method", "fields", "refused"),
    [
        ("dapo", {"overlong_buffer": 11}, []),
        ("dapo", {"overlong_buffer": 12}, ["overlong_buffer"]),
        ("dapo", {"rollout": {"n": 1}}, ["rollout.n"]),
        ("thinkprune", {"caps": (9, 8)}, []),
        ("thinkprune", {"caps": (9, 9)}, ["caps"]),
        ("thinkprune", {"caps": (9, 8, 9)}, ["caps"]),
        ("thinkprune", {"rollout": {"n": 4, "max_new_tokens": 9}}, ["rollout.max_new_tokens"]),
        ("adaptthink", {"rollout": {"n": 2}}, []),
        ("adaptthink", {"rollout": {"n": 3}}, ["rollout.n"]),
    ],
)
def test_what_a_method_refuses_begins_where_it_says(method: str, fields: dict[str, Any], refused: list[str]) -> None:
    section = METHODS[method].Config(**SMALL[method] | fields)
    assert [line.partition(":")[0] for line in build_method(section).problems()] == refused


def test_adaptthinks_accuracies_are_of_each_mode_over_its_graded_samples() -> None:
    rows = [("R", "no_thinking"), ("U", "no_thinking"), ("W", "thinking"), ("U", "thinking"), ("R", "thinking")]
    grades = {"R": Grade.RIGHT, "W": Grade.WRONG, "U": Grade.UNGRADED}
    samples = [make_sample(range(3), grade=grades[g], ask=Ask(tag=tag), problem=PROBLEM) for g, tag in rows]
    method = build_method(section_of("adaptthink"))
    assert method.metrics([make_group(samples)], [], view_of(method)) == {
        "accuracy_no_thinking": 1.0,
        "accuracy_thinking": 0.5,
    }
    # a mode without a verdict has no accuracy
    assert method.metrics([make_group(samples[1:3])], [], view_of(method)) == {"accuracy_thinking": 0.0}
