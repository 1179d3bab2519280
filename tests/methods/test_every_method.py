"""What holds of every registered method, over random batches: hypothesis looks for one that breaks it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egrc_mega.config.load import load_config
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.method import Method, build_method, is_graded
from egrc_mega.methods.recorded import recorded_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.testing.samples import view_of
from egrc_mega.types import Grade, Group

BUILTIN = sorted(METHODS.members)
METHOD_FILES = Path(__file__).parents[2] / "egrc_mega" / "methods"
CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs/methods").glob("*.yaml"))
VARIANTS = {"code": [name for name in BUILTIN if "variant" in METHODS[name].Config.model_fields]}
METHODS_AND_VARIANTS = [*BUILTIN, *(f"{name}:code" for name in VARIANTS["code"])]

few = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def method_of(name: str) -> Method[Any, Any]:
    """A method with its defaults, in its variant."""
    name, _, variant = name.partition(":")
    section = METHODS[name].Config
    return build_method(section(variant=variant) if variant else section())


@st.composite
def recorded_samples(draw: st.DrawFn, lengths: list[int], exits: list[int]) -> list[dict[str, object]]:
    """Samples of a recorded batch, no two of one length or exit."""
    samples = []
    for length, number in zip(lengths, exits, strict=True):
        truncated = draw(st.booleans()) and draw(st.booleans())
        thinks = draw(st.booleans())
        think = draw(st.integers(1, length - 1)) if thinks and not truncated else 0
        samples.append(
            {
                "length": length,
                "grade": draw(st.sampled_from(["right", "right", "wrong", "ungraded"])),
                "truncated": truncated,
                "well_formed": not truncated and draw(st.sampled_from([True, True, False])),
                "mode": "think" if thinks else "nothink",
                "repetitive": draw(st.booleans()),
                "think_len": think,
                "valid_prefix": draw(st.integers(0, think)),
                "exit_index": number,
                "step_entropies": draw(st.lists(st.floats(0.01, 2.0), min_size=2, max_size=4)),
            }
        )
    return samples


@st.composite
def batches(draw: st.DrawFn, num_groups: int = 3) -> list[Group]:
    """Groups of up to five samples, with every fact that a recorded batch may hold."""
    groups = []
    for number in range(num_groups):
        lengths = draw(st.lists(st.integers(2, 300), min_size=1, max_size=5, unique=True))
        exits = draw(st.permutations(range(len(lengths))))
        groups.append(
            {
                "id": f"g{number}",
                "ref_accuracy": draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
                "ref_mean_length": draw(st.integers(10, 300)),
                "history_len": draw(st.none() | st.integers(2, 300)),
                "num_tokens": draw(st.integers(2, 300)),
                "samples": draw(recorded_samples(lengths, list(exits))),
            }
        )
    return recorded_groups({"cap": 400, "groups": groups})


def plain(credit: Credit) -> tuple[float | None, bool, list[float], list[int] | None]:
    """What a sample is worth and teaches, in a form that `==` compares."""
    advantage = np.atleast_1d(np.asarray(credit.advantage, np.float64)).tolist()
    return credit.reward, credit.kept, advantage, None if credit.edit is None else credit.edit.output_ids.tolist()


def close(a: Credit, b: Credit) -> bool:
    """The same up to the order in which sums were formed."""
    first, second = plain(a), plain(b)
    same = first[0] == second[0] if first[0] is None or second[0] is None else abs(first[0] - second[0]) < 1e-9
    return bool(same) and first[2] == pytest.approx(second[2], abs=1e-7) and first[3] == second[3]


@pytest.fixture(scope="module")
def every() -> dict[str, Method[Any, Any]]:
    """Every method, and its variant where it has one: all look at one random batch, for drawing is what takes time."""
    return {name: method_of(name) for name in METHODS_AND_VARIANTS}


@given(data=st.data())
@few
def test_the_order_of_samples_and_of_groups_does_not_matter(every: dict[str, Method[Any, Any]], data: Any) -> None:
    groups = data.draw(batches())
    order = data.draw(st.permutations(range(len(groups))))
    inner = [data.draw(st.permutations(range(len(group.samples)))) for group in groups]
    shuffled = [replace(groups[i], samples=tuple(groups[i].samples[j] for j in inner[i])) for i in order]
    for name, method in every.items():
        rows, again = (method.credit(each, view_of(method)) for each in (groups, shuffled))
        for i, row in zip(order, again, strict=True):
            for j, credit in zip(inner[i], row, strict=True):
                assert close(credit, rows[i][j]), (name, groups[i].samples[j], credit, rows[i][j])


@given(groups=batches(), more=batches(1))
@few
def test_ungraded_samples_teach_nothing_and_change_nobody(
    every: dict[str, Method[Any, Any]], groups: list[Group], more: list[Group]
) -> None:
    ungraded = [replace(sample, grade=Grade.UNGRADED) for sample in more[0].samples]
    joined = [replace(groups[0], samples=(*groups[0].samples, *ungraded)), *groups[1:]]
    for name, method in every.items():
        rows, longer = (method.credit(each, view_of(method)) for each in (groups, joined))
        for group, row, long in zip(groups, rows, longer, strict=True):
            for sample, credit in zip(group.samples, row, strict=True):
                assert is_graded(sample) or plain(credit) == (None, False, [0.0], None), name
            assert all(close(*pair) for pair in zip(row, long[: len(row)], strict=True)), name


WHOLE_BATCH = {"arora:code", "autothink", "dler", "dler:code", "grpo_lambda", "laser_d", "laser_de", "o1_pruner"}
WHOLE_BATCH |= {"reinforce_pp", "short_rl"}
"""Methods with a statistic of the whole batch, in which every verdict counts."""


@given(groups=batches(), data=st.data())
@few
def test_a_sample_that_loses_its_verdict_changes_nobody_outside_its_group(
    every: dict[str, Method[Any, Any]], groups: list[Group], data: Any
) -> None:
    i = data.draw(st.integers(0, len(groups) - 1))
    j = data.draw(st.integers(0, len(groups[i].samples) - 1))
    lost = [replace(s, grade=Grade.UNGRADED) if k == j else s for k, s in enumerate(groups[i].samples)]
    poorer = [replace(group, samples=tuple(lost)) if k == i else group for k, group in enumerate(groups)]
    for name, method in every.items():
        if name in WHOLE_BATCH:
            continue
        before, after = (method.credit(each, view_of(method)) for each in (groups, poorer))
        assert plain(after[i][j]) == (None, False, [0.0], None), name
        for k in set(range(len(groups))) - {i}:
            assert [plain(credit) for credit in before[k]] == [plain(credit) for credit in after[k]], name


@given(groups=batches())
@few
def test_two_calls_give_the_same_credit_of_finite_numbers_that_add_up(
    every: dict[str, Method[Any, Any]], groups: list[Group]
) -> None:
    for name, method in every.items():
        first, second = (method.credit(groups, view_of(method)) for _ in range(2))
        assert [[plain(c) for c in row] for row in first] == [[plain(c) for c in row] for row in second], name
        assert method.metrics(groups, first, view_of(method)) == method.metrics(groups, second, view_of(method)), name
        for credit in (credit for row in first for credit in row):
            assert np.isfinite(credit.advantage).all(), name
            if credit.terms:
                assert credit.reward == pytest.approx(sum(credit.terms.values()), abs=1e-9), name


@given(groups=batches())
@few
def test_the_state_after_a_step_goes_through_json(every: dict[str, Method[Any, Any]], groups: list[Group]) -> None:
    for name, method in every.items():
        view = view_of(method)
        credits = method.credit(groups, view)
        record = {f"method_{key}": value for key, value in method.metrics(groups, credits, view).items()}
        seen = replace(view, state=method.remember(view, groups))
        after = method.after_step(seen, {"accuracy": 0.5, "length": 9.0, "reward": 0.5} | record)
        assert type(after) is method.State, name
        again = method.State.model_validate_json(after.model_dump_json())
        assert again == after, name
        rows = [method.credit(groups, View(step=1, state=state, seed=1)) for state in (after, again)]
        assert [[plain(c) for c in row] for row in rows[0]] == [[plain(c) for c in row] for row in rows[1]], name


@pytest.mark.parametrize("kind", ["exp", "linear", "cosine", "none"])
@given(groups=batches(), r=st.floats(0.01, 1.0))
@few
def test_positive_only_never_pushes_down(kind: str, groups: list[Group], r: float) -> None:
    method = build_method(CompressSection(clip_len=200, shape={"kind": kind, "r": r}))
    for group, row in zip(groups, method.credit(groups, view_of(method)), strict=True):
        for sample, credit in zip(group.samples, row, strict=True):
            is_paid = sample.right and sample.well_formed and sample.length <= 200
            assert credit.kept == is_paid
            assert credit.advantage > 0 if is_paid else credit.advantage == 0


@given(groups=batches(), threshold=st.sampled_from([0.0, 0.5, 1.0]))
@few
def test_the_groups_that_compress_in_the_entangled_control_push_nothing_down(
    groups: list[Group], threshold: float
) -> None:
    method = build_method(METHODS["entangled"].Config(threshold=threshold, compress={"clip_len": 200}))
    for group, row in zip(groups, method.credit(groups, view_of(method)), strict=True):
        if group.accuracy >= threshold:
            assert all(credit.advantage >= 0 for credit in row)


@pytest.mark.parametrize("kind", ["exp", "linear", "cosine"])
@given(lengths=st.lists(st.integers(1, 200), min_size=2, max_size=6, unique=True), r=st.floats(0.01, 0.99))
@few
def test_egrcs_advantage_falls_strictly_with_length_up_to_the_clip(kind: str, lengths: list[int], r: float) -> None:
    method = build_method(CompressSection(clip_len=200, shape={"kind": kind, "r": r}))
    fields = {"grade": "right", "truncated": False, "well_formed": True}
    samples = [{"length": length, **fields} for length in sorted(lengths)]
    [row] = method.credit(recorded_groups({"groups": [{"samples": samples}]}), view_of(method))
    values = [credit.advantage for credit in row]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


COMPARING = ("autothink", "thinkless", "laser", "laser_d", "laser_de", "l1_exact", "l1_max", "arora", "grpo_lambda")
COMPARING = (*COMPARING, "s_grpo", "cosine", "dapo", "explore", "thinkprune")
"""Methods whose advantages are differences within a group, before any whitening."""
ALIKE = {"length": 40, "truncated": False, "well_formed": True, "mode": "think", "think_len": 30, "exit_index": 1}


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("grade", ["right", "wrong"])
@pytest.mark.parametrize("others", [["same"] * 3, [], ["ungraded"] * 2])
def test_equal_rewards_and_groups_of_one_verdict_teach_nothing(name: str, grade: str, others: list[str]) -> None:
    grades = [grade, *(grade if other == "same" else other for other in others)]
    samples = [{**ALIKE, "grade": each} for each in grades]
    groups = recorded_groups({"cap": 400, "groups": [{"num_tokens": 50, "samples": samples}]})
    method = method_of(name)
    [row] = method.credit(groups, view_of(method))
    assert [(credit.advantage, credit.kept) for credit in row] == [(0.0, False)] * len(row)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_small_and_says_what_can_run(root: Path, name: str) -> None:
    path = root / f"configs/methods/{name}.yaml"
    assert path.read_text().count("\n") <= 20
    config = load_config([root / "configs/r1_distill_qwen_1p5b.yaml", path]).config
    assert [line for stage in config.stages for line in build_method(stage).problems()] == []
    assert max(build_method(stage).longest for stage in config.stages) <= config.policy.max_tokens_per_micro_batch
    assert Path(config.run.dir).name == name


@pytest.mark.parametrize("name", [name for name in BUILTIN if name in CONFIGS])
def test_a_method_is_one_small_file_that_nothing_else_imports(root: Path, name: str) -> None:
    file = METHOD_FILES / f"{name}.py"
    assert file.read_text().count("\n") <= 90
    assert METHODS[name].source
    importing = re.compile(rf"egrc_mega\.methods\.{name} import|methods import .*\b{name}\b")
    assert [p.name for p in (root / "egrc_mega").rglob("*.py") if importing.search(p.read_text())] == []
