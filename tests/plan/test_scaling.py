"""How a step scales: the law is the model's own curve to a tenth, and the figure is the one in the documentation."""

from pathlib import Path

import pytest

from egrc_mega.launch.plan import Question, plan_for, scaling_of_the_recipe
from egrc_mega.plan.plan import Plan
from egrc_mega.plan.scaling import MOST_GPUS, Point, curve, law


@pytest.fixture(scope="module")
def plan(root: Path) -> Plan:
    return plan_for(Question([root / "configs/r1_distill_qwen_7b.yaml"], [], 8, "h100-80g"))


@pytest.fixture(scope="module")
def points(plan: Plan) -> list[Point]:
    return curve(plan, plan.stages[-1].stage)


def test_the_law_is_the_models_curve_to_a_tenth_up_to_1024_gpus(plan: Plan, points: list[Point]) -> None:
    assert [point.num_gpus for point in points] == [2**power for power in range(3, 11)]
    found = law(plan, plan.stages[-1].stage, points)
    for point in points:
        assert found.seconds(point.num_gpus) == pytest.approx(point.total, rel=0.11)
    assert points[-1].num_gpus == MOST_GPUS
    # by then nearly all of a step is what no GPU takes away
    assert points[-1].total == pytest.approx(found.floor, rel=0.1)


def test_more_gpus_never_make_a_step_longer(points: list[Point]) -> None:
    times = [point.total for point in points]
    assert times == sorted(times, reverse=True)


def test_the_documentation_has_the_figure_and_the_numbers_of_the_law(root: Path) -> None:
    found, figure = scaling_of_the_recipe(root)
    assert (root / "docs/figures/plan_scaling.svg").read_text(encoding="utf-8") == figure, "run scripts/plan_page.py"
    page = (root / "docs/plan.md").read_text(encoding="utf-8")
    assert f"T(N) = {found.floor:.0f} s + {found.work:.0f} s / N" in page
    assert figure.count("<circle") == 5 + 3 * 8
