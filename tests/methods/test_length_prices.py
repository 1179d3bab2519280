"""L1, Arora, GRPO-lambda, S-GRPO: what a right answer loses with its length, by a budget or among the others."""

import math
from dataclasses import replace
from statistics import mean, pstdev, pvariance, stdev

import pytest

from egrc_mega.errors import DataError
from egrc_mega.methods.arora import AroraSection
from egrc_mega.methods.grpo_lambda import GrpoLambdaSection
from egrc_mega.methods.l1_exact import L1ExactSection
from egrc_mega.methods.l1_max import L1MaxSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.methods.s_grpo import SGrpoSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import PROBLEM, make_group, make_sample, view_of
from egrc_mega.types import Ask, FinishReason, Grade, Group, Problem, Sample

WRONG, UNGRADED = Grade.WRONG, Grade.UNGRADED


def group_of(*lengths: int, wrong: tuple[int, ...] = (), ungraded: tuple[int, ...] = (), key: str = "k") -> Group:
    """Right samples of these lengths, then wrong and ungraded ones."""
    problem = Problem(key=key, text="", answer="")
    grades = [*[Grade.RIGHT] * len(lengths), *[WRONG] * len(wrong), *[UNGRADED] * len(ungraded)]
    sizes = [*lengths, *wrong, *ungraded]
    return make_group(
        [make_sample(range(n), grade=grade, problem=problem) for n, grade in zip(sizes, grades, strict=True)]
    )


def credited(section: StageSection, *groups: Group) -> tuple[list[list[float | None]], list[list[float]]]:
    """Rewards and advantages."""
    method = build_method(section)
    rows = method.credit(groups, view_of(method))
    return [[c.reward for c in row] for row in rows], [[float(c.advantage) for c in row] for row in rows]


def z_scores(values: list[float]) -> list[float]:
    return [(value - mean(values)) / (stdev(values) + 1e-6) for value in values]


def budgeted(length: int, budget: float, **fields: object) -> Sample:
    return make_sample(range(length), ask=Ask(facts={"budget": budget}), **fields)


@pytest.mark.parametrize(
    ("section", "words"),
    [(L1ExactSection(), " Think for {} tokens."), (L1MaxSection(), " Think for maximum {} tokens.")],
)
def test_l1_states_one_budget_a_problem_and_step(section: StageSection, words: str) -> None:
    method = build_method(section)
    drawn = []
    for step in range(200):
        asks = method.plan(PROBLEM, View(step=step, state=method.State(), seed=1))
        budget = int(asks[0].facts["budget"])
        assert list(asks) == [Ask(suffix=words.format(budget), facts={"budget": budget})] * 16
        drawn.append(budget)
    assert 100 <= min(drawn) < 300
    assert 3800 < max(drawn) <= 4000
    other = method.plan(replace(PROBLEM, key="other"), view_of(method))
    assert other[0].facts["budget"] != drawn[0]
    assert method.plan(PROBLEM, view_of(method))[0].facts["budget"] == drawn[0]


def test_a_single_budget_is_possible_and_a_range_upside_down_is_not() -> None:
    for section in (L1ExactSection, L1MaxSection):
        method = build_method(section(budget=(7, 7)))
        assert method.plan(PROBLEM, view_of(method))[0].facts["budget"] == 7
        assert list(method.problems()) == []
        problems = list(build_method(section(budget=(8, 7), rollout={"n": 1})).problems())
        assert [line.partition(":")[0] for line in problems] == ["rollout.n", "budget"]


def test_l1_exact_costs_the_distance_to_the_budget_of_wrong_answers_too() -> None:
    samples = [budgeted(40, 50), budgeted(70, 50), budgeted(50, 50, grade=WRONG), budgeted(90, 50, grade=UNGRADED)]
    samples.append(budgeted(50, 50, finish=FinishReason.LENGTH))
    rewards, advantages = credited(L1ExactSection(alpha=0.01), make_group(samples))
    # 1 - .01 * 10, 1 - .01 * 20, 0, unjudged, cut off at the budget: 0
    expected = [0.9, 0.8, 0.0, 0.0]
    assert rewards == [[*map(pytest.approx, expected[:3]), None, 0.0]]
    z = z_scores(expected)
    assert advantages == [pytest.approx([z[0], z[1], z[2], 0.0, z[3]], abs=1e-12)]


def test_l1_max_is_half_as_steep_in_the_code_as_in_the_paper() -> None:
    # budget - length: 10, -30, 80, -90
    samples = [budgeted(n, 100) for n in (90, 130, 20, 190)]
    paper, _ = credited(L1MaxSection(alpha=0.01), make_group(samples))
    # .01 * 10 + .5, .01 * -30 + .5, min(1, 1.3), max(0, -.4)
    assert paper == [pytest.approx([0.6, 0.2, 1.0, 0.0])]
    code, _ = credited(L1MaxSection(alpha=0.01, variant="code"), make_group(samples))
    # (.1 + 1) / 2, (-.3 + 1) / 2, (.8 + 1) / 2, (-.9 + 1) / 2
    assert code == [pytest.approx([0.55, 0.35, 0.9, 0.05])]
    far, _ = credited(L1MaxSection(alpha=1.0, variant="code"), make_group(samples))
    assert far == [[1.0, 0.0, 1.0, 0.0]]
    wrong, advantages = credited(L1MaxSection(), make_group([budgeted(5, 9, grade=WRONG), budgeted(9, 9, grade=WRONG)]))
    assert (wrong, advantages) == ([[0.0, 0.0]], [[0.0, 0.0]])


def test_a_sample_without_a_budget_is_told() -> None:
    with pytest.raises(DataError, match="asked for without a budget"):
        credited(L1ExactSection(), group_of(3, 4))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_arora_compares_right_answers_with_each_other_by_the_populations_deviation() -> None:
    rewards, advantages = credited(AroraSection(alpha=0.2), group_of(10, 20, 60, wrong=(15,), ungraded=(500,)))
    z = [(n - 30) / (pstdev([10, 20, 60]) + 1e-7) for n in (10, 20, 60)]
    expected = [1 - 0.2 * sigmoid(each) for each in z] + [0.0]
    assert rewards == [[*map(pytest.approx, expected), None]]
    # each against the mean of the three others
    others = [(sum(expected) - r) / 3 for r in expected]
    assert advantages == [pytest.approx([*(r - o for r, o in zip(expected, others, strict=True)), 0.0], abs=1e-12)]


def test_one_right_answer_loses_half_of_alpha_and_a_cut_one_all() -> None:
    cut = make_sample(range(9), finish=FinishReason.LENGTH)
    rewards, _ = credited(AroraSection(alpha=0.5), make_group([make_sample(range(4)), cut]))
    assert rewards == [[0.75, 0.0]]


def test_aroras_code_whitens_over_all_tokens_of_the_batch() -> None:
    groups = [group_of(2, wrong=(6,)), group_of(4, 4, ungraded=(50,)), group_of(3)]
    _, plain = credited(AroraSection(alpha=0.5), *groups)
    # right alone: 1 - .5 / 2 = .75 against 0; equal lengths: no difference; a single sample: none
    assert plain == [[0.75, -0.75], [0.0, 0.0, 0.0], [0.0]]
    _, white = credited(AroraSection(alpha=0.5, variant="code"), *groups)
    tokens = [0.75] * 2 + [-0.75] * 6 + [0.0] * 11
    m, s = mean(tokens), math.sqrt(pvariance(tokens))
    expected = [[(0.75 - m) / s, (-0.75 - m) / s], [-m / s, -m / s, 0.0], [-m / s]]
    assert white == [pytest.approx(row, abs=1e-12) for row in expected]


def test_a_batch_that_differs_nowhere_or_has_no_verdict_is_whitened_to_nothing() -> None:
    assert credited(AroraSection(variant="code"), group_of(4, 4))[1] == [[0.0, 0.0]]
    assert credited(AroraSection(variant="code"), group_of(ungraded=(4, 9)))[1] == [[0.0, 0.0]]


def test_grpo_lambda_shapes_the_most_accurate_share_of_the_batch() -> None:
    groups = [
        group_of(10, 30, key="a"),
        group_of(10, 30, wrong=(5,), key="b"),
        group_of(10, wrong=(30,), key="c"),
        group_of(wrong=(10, 30), key="d"),
        group_of(ungraded=(10, 30), key="e"),
    ]
    section = GrpoLambdaSection(share=0.5, alpha=0.2)
    # of four groups with a verdict two; z = -+ 10 / 14.142, unbiased
    z = 10 / (stdev([10, 30]) + 1e-6)
    shaped = [1 - 0.2 * sigmoid(-z), 1 - 0.2 * sigmoid(z)]
    rewards, advantages = credited(section, *groups)
    assert rewards == [pytest.approx(shaped), [*map(pytest.approx, shaped), 0.0], [1.0, 0.0], [0.0, 0.0], [None, None]]
    assert advantages[0] == pytest.approx(z_scores(shaped), abs=1e-12)
    assert advantages[2] == pytest.approx(z_scores([1.0, 0.0]), abs=1e-12)
    method = build_method(section)
    metrics = method.metrics(groups, [], view_of(method))
    assert metrics == {"paying_groups": 2.0, "lowest_accuracy": pytest.approx(2 / 3)}
    assert method.metrics([groups[-1]], [], view_of(method)) == {"paying_groups": 0.0}


def test_the_share_is_rounded_up_and_ties_go_by_the_problems_names() -> None:
    groups = [group_of(10, 30, key=key) for key in "cab"]
    rewards, _ = credited(GrpoLambdaSection(share=0.5), *groups)
    # ceil(1.5) = 2 groups: a and b
    assert [row[0] == 1.0 for row in rewards] == [True, False, False]
    many = [group_of(10, 30, key=f"{i:02}") for i in range(25)]
    # in doubles .28 * 25 is 7.000000000000001
    rewards, _ = credited(GrpoLambdaSection(share=0.28), *many)
    assert [row[0] == 1.0 for row in rewards] == [False] * 7 + [True] * 18


def thinking(length: int, tokens: int | None, **fields: object) -> Sample:
    return replace(make_sample(range(length), **fields), think_length=tokens)


def test_s_grpo_halves_the_reward_from_one_right_exit_to_the_next() -> None:
    exits = [(5, Grade.RIGHT), (0, WRONG), (3, Grade.RIGHT), (1, Grade.RIGHT), (2, UNGRADED), (4, WRONG)]
    samples = [make_sample([1], grade=g, ask=Ask(facts={"exit_index": float(e)})) for e, g in exits]
    rewards, advantages = credited(SGrpoSection(), make_group(samples))
    assert rewards == [[0.25, 0.0, 0.5, 1.0, None, 0.0]]
    # the mean of the five judged is .35
    assert advantages == [pytest.approx([-0.1, -0.35, 0.15, 0.65, 0.0, -0.35], abs=1e-12)]


def test_s_grpo_ranks_samples_without_an_exit_by_how_long_they_think() -> None:
    samples = [thinking(30, 20), thinking(90, 10), thinking(15, None), thinking(40, 20), thinking(50, 40)]
    samples.append(thinking(5, 2, finish=FinishReason.LENGTH))
    # 10, then 15 (it never ends to think), 20 twice, 40; what was cut is wrong
    rewards, _ = credited(SGrpoSection(decay=0.5), make_group(samples))
    assert rewards == [[0.25, 1.0, 0.5, 0.25, 0.0625, 0.0]]
    rewards, _ = credited(SGrpoSection(decay=1.0), make_group(samples))
    assert rewards == [[1.0] * 5 + [0.0]]
