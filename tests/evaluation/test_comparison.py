"""Two runs over the same problems: exact tests, intervals, L-Acc and the base that it belongs to."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from egrc_mega.errors import DataError
from egrc_mega.evaluation.statistics.comparison import compared, mcnemar_p, sign_flip_p
from egrc_mega.evaluation.statistics.l_acc import LABEL, Measured, l_acc, l_acc_against
from egrc_mega.evaluation.statistics.outcomes import Outcomes

MEASURED = Measured(label="short", model="m" * 64, protocol="p" * 64, result="r" * 64)
BASE = replace(MEASURED, label="base", model="b" * 64, result="s" * 64)


def run(right: list[float], length: list[float], samples: int = 1) -> Outcomes:
    keys = [f"p{i // samples}" for i in range(len(right))]
    return Outcomes.of(keys, right, length)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 0), (7, 2), (3, 3), (1, 12)])
def test_mcnemars_p_is_the_binomials_and_the_permutations(better: int, worse: int) -> None:
    num = better + worse
    # every assignment of signs, counted
    sums = [abs(sum(signs)) for signs in product((-1, 1), repeat=num)]
    by_hand = sum(s >= abs(better - worse) for s in sums) / len(sums)
    assert mcnemar_p(better, worse) == pytest.approx(by_hand)
    differences = np.asarray([1.0] * better + [-1.0] * worse + [0.0] * 4)
    assert sign_flip_p(differences) == pytest.approx(by_hand)


def test_the_sign_flip_test_tries_every_sign_where_there_are_few() -> None:
    differences = np.asarray([0.5, -0.25, 0.75, 1.0, 0.0, -0.25])
    moved = [d for d in differences if d]
    sums = [abs(sum(s * abs(d) for s, d in zip(signs, moved, strict=True))) for signs in product((-1, 1), repeat=5)]
    assert sign_flip_p(differences) == pytest.approx(sum(s >= 1.75 - 1e-9 for s in sums) / 32)


def test_drawn_signs_give_the_p_of_the_normal_limit() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.15, 1.0, 200)
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    assert sign_flip_p(differences) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)
    assert sign_flip_p(differences) == sign_flip_p(differences)


def test_a_comparison_is_paired_whatever_the_order_of_the_problems() -> None:
    first = Outcomes.of(["a", "b", "c", "d"], [1, 1, 0, 1], [10, 20, 30, 40])
    second = Outcomes.of(["d", "b", "a", "c"], [0, 1, 1, 0], [100, 100, 100, 100])
    found = compared(first, "x", second, "y")
    assert found.accuracy_difference is not None and found.length_ratio is not None
    assert found.accuracy_difference.value == pytest.approx(0.25)
    assert (found.num_better, found.num_worse, found.num_problems) == (1, 0, 4)
    assert found.length_ratio.value == pytest.approx(0.25)
    assert found.accuracy_p == 1.0


def test_pairing_makes_the_interval_narrower_than_two_strangers() -> None:
    right = [1.0, 0.0] * 40
    same = compared(run(right, [1] * 80), "x", run([*right[:-2], 0.0, 1.0], [1] * 80), "y").accuracy_difference
    other = compared(run(right, [1] * 80), "x", run(right[::-1], [1] * 80), "y").accuracy_difference
    assert same is not None and other is not None
    assert 0 < same.high - same.low < 0.5 * (other.high - other.low)


def test_equal_runs_differ_by_nothing_but_nobody_says_exactly_nothing() -> None:
    found = compared(run([1, 1, 1, 1], [5, 6, 7, 8]), "x", run([1, 1, 1, 1], [5, 6, 7, 8]), "y")
    assert found.accuracy_difference is not None and found.length_ratio is not None
    assert found.accuracy_difference.value == 0 and found.accuracy_difference.low < -0.2
    assert (found.accuracy_p, found.length_p, found.length_ratio.value) == (1.0, 1.0, 1.0)


def test_runs_on_other_problems_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"base-model lacks 'p1'.*evaluate both on the same set"):
        compared(run([1, 0], [1, 1]), "x", run([1], [1]), "base-model")
    with pytest.raises(DataError, match="short lacks 'p2'"):
        compared(run([1, 0], [1, 1]), "short", run([1, 0, 1], [1, 1, 1]), "y")


def test_l_acc_names_its_base_by_model_protocol_and_result() -> None:
    found = l_acc_against(run([1, 1, 0, 1], [10, 20, 30, 40]), MEASURED, run([1] * 4, [100, 50, 150, 100]), BASE)
    assert found is not None
    assert found.estimate.value == pytest.approx(l_acc(0.75, 25, 100))
    assert found.estimate.low < found.estimate.value < found.estimate.high <= 1
    assert (found.base, found.base_length, found.is_no_shorter) == (BASE, 100, False)
    assert found.base.key == f"{'b' * 12}:{'p' * 12}:{'s' * 12}"
    assert replace(BASE, model=f"{LABEL}R1-Distill-1.5B").key == f"label:R1-Distill-1.5B:{'p' * 12}:{'s' * 12}"


def test_a_base_of_another_protocol_is_refused() -> None:
    runs = run([1, 0], [1, 2])
    with pytest.raises(DataError, match=r"base was measured by the protocol qqqqqqqqqqqq, not by pppppppppppp"):
        l_acc_against(runs, MEASURED, runs, replace(BASE, protocol="q" * 64))


def test_a_base_of_other_problems_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be paired"):
        l_acc_against(run([1, 0], [1, 2]), MEASURED, run([1], [1]), BASE)


@pytest.mark.parametrize("longer", [1.0, 1.5])
def test_responses_that_are_no_shorter_than_the_bases_are_flagged(longer: float) -> None:
    base = run([1, 0, 1], [10, 20, 30])
    found = l_acc_against(run([1, 1, 1], [10 * longer, 20 * longer, 30 * longer]), MEASURED, base, BASE)
    assert found is not None and found.is_no_shorter
    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)


def test_nothing_graded_has_no_l_acc() -> None:
    base = run([1, 1], [10, 10])
    assert l_acc_against(Outcomes.of(["p0", "p1"], [None, None], [1, 1]), MEASURED, base, BASE) is None
