"""The two objectives on the same rollouts: masses and conflict by hand, and the angle of their gradients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from egrc_mega.convert.hf_model import last_block
from egrc_mega.diagnosis.objective_gradients import gradient_angles
from egrc_mega.diagnosis.objectives import Objectives, Taught, conflict, conflict_index, taught
from egrc_mega.diagnosis.question import TokenSettings
from egrc_mega.diagnosis.token_part import TokenPart
from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.entangled import EntangledSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.testing.samples import PROBLEM, make_group, make_sample
from egrc_mega.types import Grade, Sample

L = 10
OBJECTIVES = Objectives(CompressSection(clip_len=L), ExploreSection(clip_len=L), 0.5)


def sample(text: str, length: int, grade: Grade, first: int = 3) -> Sample:
    return replace(make_sample(range(first, first + length), grade=grade), text=text)


RIGHT_SHORT = sample("Wait. So 4", 5, Grade.RIGHT)
RIGHT_LONG = sample("Wait. Wait. So 4", 20, Grade.RIGHT)
WRONG = replace(sample("Wait, no", 5, Grade.WRONG, first=20), well_formed=False)


@pytest.mark.parametrize(
    ("a", "b", "index"), [(1, 1, 0), (1, -1, 1), (2, -1, 2 / 3), (-3, -1, 0), (0, 5, 0), (0.0, 0.0, None)]
)
def test_the_conflict_index_is_one_where_the_masses_cancel_and_zero_where_they_agree(
    a: float, b: float, index: float | None
) -> None:
    assert conflict_index(a, b) == (None if index is None else pytest.approx(index))


def test_both_objectives_credit_the_same_samples() -> None:
    found = taught([make_group([RIGHT_SHORT, RIGHT_LONG, WRONG])], OBJECTIVES)
    shape = 0.1 ** (5 / L)
    assert [each.compress for each in found] == pytest.approx([shape, 0, 0])
    rewards = np.array([1.2, 1.2 - 1.0, 0.0])
    assert [each.explore for each in found] == pytest.approx((rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6))
    assert all(each.compresses for each in found)


def test_a_connectors_masses_are_advantages_times_occurrences() -> None:
    groups = [make_group([RIGHT_SHORT, RIGHT_LONG, WRONG])]
    a, b = ([getattr(each, name) for each in taught(groups, OBJECTIVES)] for name in ("compress", "explore"))
    found = conflict(taught(groups, OBJECTIVES))["same_rollouts"]
    wait = (a[0] + 2 * a[1] + a[2], b[0] + 2 * b[1] + b[2])
    assert (found["Wait"]["compress"], found["Wait"]["explore"]) == pytest.approx(wait)
    assert found["Wait"]["conflict"] == pytest.approx(conflict_index(*wait))
    assert found["So"]["explore"] == pytest.approx(b[0] + b[1])
    assert found["recheck"] == found["Wait"]
    assert found["all tokens"]["explore"] == pytest.approx(5 * b[0] + 20 * b[1] + 5 * b[2])
    assert list(found) == ["So", "Wait", "step", "recheck", "all tokens"]


def test_under_the_control_a_group_is_credited_by_one_objective_only() -> None:
    easy = make_group([RIGHT_SHORT, RIGHT_LONG])
    hard = make_group([RIGHT_LONG, WRONG, WRONG])
    found = conflict(taught([easy, hard], OBJECTIVES))["entangled"]
    a = [each.compress for each in taught([easy], OBJECTIVES)]
    b = [each.explore for each in taught([hard], OBJECTIVES)]
    assert found["Wait"]["compress"] == pytest.approx(a[0] + 2 * a[1])
    assert found["Wait"]["explore"] == pytest.approx(2 * b[0] + b[1] + b[2])


def test_an_ungraded_sample_teaches_neither() -> None:
    [first, _second] = taught([make_group([sample("Wait", 5, Grade.UNGRADED), RIGHT_SHORT])], OBJECTIVES)
    assert (first.compress, first.explore) == (0, 0)


def test_the_sections_are_the_configurations_own() -> None:
    class Stages:
        stages = (ExploreSection(clip_len=7), CompressSection(clip_len=8))

    found = Objectives.of(Stages())  # type: ignore[arg-type]
    assert (found.compress.clip_len, found.explore.clip_len, found.threshold) == (8, 7, 0.5)
    Stages.stages = (EntangledSection(threshold=0.3, compress=CompressSection(clip_len=9)),)  # type: ignore[assignment]
    found = Objectives.of(Stages())  # type: ignore[arg-type]
    assert (found.compress.clip_len, found.explore.clip_len, found.threshold) == (9, 4096, 0.3)
    assert Objectives.of(None).compress.clip_len == 4096


@pytest.fixture(scope="module")
def part(base_model: Path) -> TokenPart:
    return TokenPart(base_model, TokenSettings(batch_tokens=100, max_tokens=400))


def expected_gradient(part: TokenPart, each: Taught) -> torch.Tensor:
    """Of the mean log-prob, through transformers' whole forward pass."""
    prompt = part.renderer.prompt_ids(PROBLEM).tolist()
    output = each.sample.completion.output_ids.tolist()
    logits = part.model(torch.tensor([prompt + output])).logits[0, len(prompt) - 1 : -1]
    mean = logits.log_softmax(-1)[range(len(output)), output].mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(mean, last_block(part.model))]).double()


def test_the_cosine_is_that_of_the_two_losses_gradients(part: TokenPart) -> None:
    samples = taught([make_group([RIGHT_SHORT, RIGHT_LONG]), make_group([RIGHT_SHORT, WRONG, WRONG])], OBJECTIVES)
    found = gradient_angles(part, samples)
    gradients = [expected_gradient(part, each) for each in samples]
    for way in ("same_rollouts", "entangled"):
        pairs = [each.entangled if way == "entangled" else (each.compress, each.explore) for each in samples]
        a, b = (sum(pair[i] * g for pair, g in zip(pairs, gradients, strict=True)) for i in (0, 1))
        assert isinstance(a, torch.Tensor)
        assert isinstance(b, torch.Tensor)
        assert found[way]["cosine"] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-4)
        assert found[way]["compress"] == pytest.approx(float(a.norm()), rel=1e-4)
        assert found[way]["explore"] == pytest.approx(float(b.norm()), rel=1e-4)
    assert (found["num_samples"], found["num_left_out"]) == (5, 0)


def test_samples_beyond_the_bounds_are_left_out_and_counted(part: TokenPart) -> None:
    long = sample("Wait", 30, Grade.WRONG)
    too_long = replace(long, completion=replace(long.completion, output_ids=np.full(120, 5, np.int32)))
    found = gradient_angles(part, [Taught(too_long, 1.0, 1.0, True), *[Taught(long, 1.0, -1.0, True)] * 12])
    assert found["num_samples"] + found["num_left_out"] == 13
    assert 1 < found["num_samples"] < 12
    assert found["same_rollouts"]["cosine"] == pytest.approx(-1, abs=1e-5)
    assert found["entangled"]["cosine"] is None


def test_what_teaches_nothing_costs_no_pass(part: TokenPart) -> None:
    found = gradient_angles(part, [Taught(WRONG, 0.0, 0.0, True)])
    assert (found["num_samples"], found["num_left_out"], found["same_rollouts"]["cosine"]) == (0, 0, None)
