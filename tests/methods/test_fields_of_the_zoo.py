"""Every field of every other method moves what it does: its plan, its credits, its cap, its figures or its state."""

from typing import Any

import numpy as np
import pytest

from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.method import Method, build_method
from egrc_mega.methods.recorded import recorded_groups
from egrc_mega.methods.records import View
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.types import Group, Problem

COMPARED = {"advantage_normalisation": "mean_only", "advantage_min_std": 9.0, "advantage_eps": 0.5}
SUMMED = COMPARED | {"rewards": ({"reward": "format"},)}
TARGETS = {"bonus": 0.25, "lower": 40, "cap": 3000, "every": 3, "advantage_eps": 0.5}
PAYING = {"reward_kl_coef": 0.5, "reward_kl_kind": "token"}
LENGTHS = {
    f"{kind}.{term}": 0.3 for kind in ("total", "thinking", "answer") for term in ("shortest", "longest", "outlier")
} | {"total.relative": 0.7, "thinking.relative": 0.7, "answer.relative": 0.7}
OTHER: dict[str, dict[str, Any]] = {
    "a_dlp": COMPARED | {"initial_price": 0.01, "rate": 0.1, "target": 0.1},
    "arora": PAYING | {"variant": "code", "alpha": 0.4},
    "autothink": {"gamma": 0.3, "alpha": 0.1, "beta": 0.2, "opening": "", "no_thinking": "So"},
    "cispo": SUMMED,
    "cosine": COMPARED
    | {"right": (3.0, 1.0), "wrong": (-2.0, -1.0), "exceed": -3.0, "margin": 9}
    | {"repeat_penalty": -0.5, "repeat_ngram": 2, "repeat_gamma": 0.5},
    "dast": COMPARED | {"max_length": 500},
    "dler": {"variant": "code", "max_length": 70, "truncated_factor": 0.5, "whitening_eps": 0.5},
    "dr_grpo": SUMMED | {"advantage_normalisation": "std"},
    "entangled": {"threshold": 0.9, "compress.clip_len": 20, "explore.clip_len": 20},
    "etr": COMPARED | {"weight": 0.5, "alpha": 0.1, "beta": 0.1, "gamma": 0.1, "wrong": -0.5, "step_end": "."},
    "gfpo": SUMMED | {"metric": "efficiency", "k": 3},
    "grpo": SUMMED,
    "grpo_lambda": COMPARED | {"share": 1.0, "alpha": 0.7},
    "gspo": SUMMED,
    "hapo": COMPARED | {"weight": 0.5, "lowest_right": -0.1, "history_length": "reference_length"},
    "kimi": COMPARED | {"weight": 1.0, "warmup_steps": 9},
    "l1_exact": COMPARED | {"alpha": 0.01, "budget": (5, 6), "words": " {n}"},
    "l1_max": COMPARED | {"variant": "code", "alpha": 0.01, "budget": (5, 6), "words": " {n}"},
    "laser": COMPARED | {"target": 9, "bonus": 0.25},
    "laser_d": TARGETS,
    "laser_de": TARGETS,
    "lc_r1": {"length_weight": 0.5, "end_weight": 0.5},
    "length_penalty": COMPARED | LENGTHS | {"pass_rate_weight": 0.5},
    "o1_pruner": {"alpha": 1.0, "lowest": -0.5, "highest": 0.5}
    | {"reference_accuracy": "reference_length", "reference_length": "reference_accuracy"},
    "reinforce_pp": PAYING | {"baseline": "none", "rewards": ({"reward": "format"},), "whitening_eps": 0.5},
    "rloo": PAYING | {"rewards": ({"reward": "format"},)},
    "s_grpo": {"decay": 0.9},
    "short_rl": COMPARED | {"length_tolerance": 1, "accuracy_tolerance": 0.5},
    "shorterbetter": COMPARED | {"alpha": 1.0, "beta": 0.01},
    "smartthinker": COMPARED,
    "thinkless": {"variant": "code", "alpha": 0.5, "short": "<other>", "thinking_reward": 0.8},
}
"""Another value of each field that a method adds to those of every stage."""
UNDER: dict[tuple[str, str], dict[str, Any]] = {
    ("dler", "truncated_factor"): {"variant": "code"},
    ("dr_grpo", "advantage_min_std"): {"advantage_normalisation": "std"},
    ("dr_grpo", "advantage_eps"): {"advantage_normalisation": "std"},
} | {
    ("length_penalty", f"{kind}.outlier_threshold"): {kind: {"outlier": 0.3}}
    for kind in ("total", "thinking", "answer")
}
"""What else is set for a field that matters only there."""
SMALL: dict[str, dict[str, Any]] = {
    "arora": {"rollout": {"n": 4, "max_new_tokens": 80}},
    "etr": {"weight": 0.1},
    "laser": {"target": 40},
    "gfpo": {"k": 2},
}


def sample(length: int, grade: str, **fields: Any) -> dict[str, Any]:
    """Of a recorded batch: it thinks for two thirds of its length if nothing else is said."""
    think = length * 2 // 3
    known = {"truncated": False, "well_formed": True, "mode": "think", "think_len": think, "valid_prefix": think // 2}
    known |= {"repetitive": False, "exit_index": length, "step_entropies": [0.5, 0.2, 0.4, 0.1]}
    return {"length": length, "grade": grade} | known | fields


def recorded() -> list[Group]:
    """Groups of every accuracy, with each kind of sample and every fact that a batch may hold."""
    short = {"mode": "nothink", "think_len": 0, "valid_prefix": 0}
    cut = {"truncated": True, "well_formed": False, "think_len": 0}
    rows = [
        [sample(n, "right") for n in (10, 12, 13, 60)] + [sample(8, "right", **short), sample(70, "wrong")],
        [
            sample(20, "right"),
            sample(30, "right"),
            sample(75, "right", **cut),
            sample(40, "wrong", **short),
            sample(5, "wrong"),
        ],
        [sample(25, "right"), sample(35, "wrong"), sample(45, "wrong", well_formed=False), sample(9, "ungraded")],
        [sample(50, "wrong"), sample(55, "wrong"), sample(14, "right", well_formed=False), sample(60, "wrong")],
    ]
    facts = {"ref_accuracy": 0.5, "ref_mean_length": 30, "num_tokens": 25}
    history = [11, 30, None, 12]
    groups = [
        facts | {"id": f"g{i}", "history_len": h, "samples": r}
        for i, (h, r) in enumerate(zip(history, rows, strict=True))
    ]
    return recorded_groups({"cap": 80, "groups": groups})


REPEATING = make_group([make_sample([4, 5] * 12), make_sample([4, 5, 6, 7] * 11), make_sample(range(30))])
"""Tokens that repeat, in texts that are empty: for terms that a recorded batch cannot show."""


def said(method: Method[Any, Any]) -> list[Any]:
    """Everything that a method says of those batches, in a form that `==` compares."""
    problem = Problem(key="p", text="1 + 1", answer="2", facts={"reference_accuracy": 0.5})
    groups = recorded()
    told: list[Any] = [method.longest, method.section.loss.model_dump(), sorted(method.facts)]
    state = method.State()
    for step in (4, 5, 6):
        view = View(step=step, state=state, seed=1)
        rows = method.credit(groups, view)
        told += [list(method.plan(problem, view)), method.metrics(groups, rows, view)]
        told += [_plain(credit) for row in rows for credit in row]
        record = {f"method_{key}": value for key, value in method.metrics(groups, rows, view).items()}
        seen = View(step=step, state=method.remember(view, groups), seed=1)
        state = method.after_step(seen, {"accuracy": 0.5, "length": 30.0} | record)
        told.append(state.model_dump())
        groups = groups[1:]  # less accurate than the batch before
    return told


def _plain(credit: Any) -> tuple[Any, ...]:
    return np.asarray(credit.advantage).tolist(), credit.reward, dict(credit.terms), credit.kept


def own_fields(method: str) -> set[str]:
    """Fields that are the method's, those of sections within by a dotted path."""
    names = set()
    for name, field in METHODS[method].Config.model_fields.items():
        inner = (
            field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, Section) else None
        )
        names |= {f"{name}.{each}" for each in inner.model_fields} if inner else {name}
    return names - {f"{name}.{each}" for name in ("rollout", "loss", "optim") for each in _fields(name)} - _common()


def _fields(name: str) -> set[str]:
    annotation = StageSection.model_fields[name].annotation
    assert isinstance(annotation, type)
    return set(annotation.model_fields)


def _common() -> set[str]:
    return set(StageSection.model_fields)


def built(method: str, field: str | None = None, known: str | None = None) -> Method[Any, Any]:
    """The method with another value of one field; `known` names the field whose surroundings hold."""
    fields: dict[str, Any] = SMALL.get(method, {}) | UNDER.get((method, known or field or ""), {})
    if field is not None:
        outer, _dot, inner = field.partition(".")
        value = OTHER[method].get(field, 0.1)
        fields = fields | {outer: (fields.get(outer) or {}) | {inner: value} if inner else value}
    return build_method(METHODS[method].Config(**fields))


NEEDING_TEXT = {
    ("etr", "step_end"),
    ("cosine", "repeat_penalty"),
    ("cosine", "repeat_ngram"),
    ("cosine", "repeat_gamma"),
}
NEEDING_TEXT |= {("autothink", "no_thinking"), ("thinkless", "short")}
NEEDING_TEXT |= {(method, field) for method in ("arora", "reinforce_pp", "rloo") for field in PAYING}
"""What a recorded batch cannot show: tests/methods/test_{two_modes,token_advantages,length_prices,reward_kl}.py do."""
FIELDS = [(method, field) for method, row in OTHER.items() for field in row if (method, field) not in NEEDING_TEXT]


def test_the_table_knows_every_field_of_every_method_that_test_fields_does_not() -> None:
    assert METHODS.members.keys() - OTHER.keys() == {"adaptthink", "compress", "dapo", "explore", "thinkprune"}
    thresholds = {f"{kind}.outlier_threshold" for kind in ("total", "thinking", "answer")}
    for method in OTHER.keys() - {"entangled"}:
        missing = thresholds if method == "length_penalty" else set()
        assert set(OTHER[method]) | missing == own_fields(method), method


@pytest.mark.parametrize(("method", "field"), [*FIELDS, ("length_penalty", "total.outlier_threshold")])
def test_another_value_of_a_field_of_the_zoo_does_something_else(method: str, field: str) -> None:
    assert said(built(method, known=field)) != said(built(method, field))


def test_the_cosines_penalty_on_repetition_goes_by_its_three_fields() -> None:
    def taught(**fields: Any) -> list[Any]:
        method = build_method(METHODS["cosine"].Config(repeat_ngram=3, **fields))
        [row] = method.credit([REPEATING], View(step=0, state=method.State(), seed=1))
        return [_plain(credit) for credit in row]

    plain = taught()
    assert all(taught(**other) != plain for other in ({"repeat_penalty": -1.0}, {"repeat_gamma": 0.5}))
    longer = build_method(METHODS["cosine"].Config(repeat_ngram=30))
    [row] = longer.credit([REPEATING], View(step=0, state=longer.State(), seed=1))
    assert [_plain(credit) for credit in row] != plain
