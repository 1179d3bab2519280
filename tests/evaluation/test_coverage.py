"""2,000 seeded runs each: 95 % intervals hold the truth in 93 to 97 of 100, and a test at 5 % errs in no more."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from egrc_mega.evaluation.statistics.budgets import accuracy_at_budgets
from egrc_mega.evaluation.statistics.comparison import accuracy_difference, length_ratio, sign_flip_p
from egrc_mega.evaluation.statistics.intervals import Estimate, bootstrap_interval
from egrc_mega.evaluation.statistics.l_acc import Measured, l_acc, l_acc_against
from egrc_mega.evaluation.statistics.lengths import mean_length, mean_length_of_right, mean_length_of_wrong
from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.statistics.shares import Share, pass_at_1, pass_at_k

RUNS = 2000
MEASURED = Measured(label="run", model="m", protocol="p", result="r")
Measure = Callable[[Outcomes, Outcomes], Estimate | None]


def world(num_problems: int, num_samples: int, rng: np.random.Generator) -> tuple[Outcomes, Outcomes]:
    """A short model and its base: harder problems are solved less often and get longer responses, wrong ones longer."""
    difficulty = rng.normal(0, 1, num_problems)

    def sampled(ease: float, log_length: float, slope: float) -> Outcomes:
        chances = 1 / (1 + np.exp(1.5 * difficulty - ease))
        means = np.exp(log_length + slope * difficulty + rng.normal(0, 0.3, num_problems))
        problem = np.repeat(np.arange(num_problems), num_samples)
        right = (rng.random(len(problem)) < chances[problem]).astype(np.float64)
        noise = np.exp(rng.normal(0, 0.5, len(problem)))
        length = means[problem] * noise * np.where(right == 1, 1.0, 1.3)
        return Outcomes(problem, right, length, tuple(map(str, range(num_problems))))

    return sampled(0.5, 7.5, 0.6), sampled(0.8, 9.0, 0.5)


def _share(share: Share | None) -> Estimate | None:
    return share.estimate if share else None


def _l_acc(run: Outcomes, base: Outcomes) -> Estimate | None:
    found = l_acc_against(run, MEASURED, base, MEASURED)
    return found.estimate if found else None


def _by_problem(run: Outcomes, base: Outcomes, column: str) -> np.ndarray:
    return np.stack([each.mean_by_problem(getattr(each, column)) for each in (run, base)], axis=1)


CHEAP: dict[str, Measure] = {
    "pass@1": lambda run, _base: _share(pass_at_1(run)),
    "pass@2": lambda run, _base: _share(pass_at_k(run, 2)),
    "accuracy at a budget": lambda run, _base: accuracy_at_budgets(run, [2048])[0].share.estimate,
}
BOOTSTRAPPED: dict[str, Measure] = {
    "mean length": lambda run, _base: mean_length(run),
    "length of right": lambda run, _base: mean_length_of_right(run),
    "length of wrong": lambda run, _base: mean_length_of_wrong(run),
    "length ratio": lambda run, base: length_ratio(_by_problem(run, base, "length")),
    "accuracy difference": lambda run, base: accuracy_difference(run, base, _by_problem(run, base, "right")),
    "L-Acc": _l_acc,
}


@lru_cache(maxsize=1)
def truths() -> dict[str, float]:
    """From four samples of 100,000 problems."""
    run, base = world(100_000, 4, np.random.default_rng(0))
    right, length = run.right, run.length
    by_problem = right.reshape(-1, 4).mean(axis=1)
    return {
        "pass@1": right.mean(),
        "pass@2": (1 - (1 - right.reshape(-1, 4)[:, 0]) * (1 - right.reshape(-1, 4)[:, 1])).mean(),
        "accuracy at a budget": (right * (length <= 2048)).mean(),
        "mean length": length.mean(),
        "length of right": length[right == 1].mean(),
        "length of wrong": length[right == 0].mean(),
        "length ratio": length.mean() / base.length.mean(),
        "accuracy difference": right.mean() - base.right.mean(),
        "L-Acc": l_acc(float(by_problem.mean()), float(length.mean()), float(base.length.mean())),
    }


def coverages(measures: dict[str, Measure], num_problems: int, num_samples: int) -> dict[str, float]:
    """Share of the runs whose interval holds the truth, by figure; one without an interval misses it."""
    rng = np.random.default_rng(20)
    hits = dict.fromkeys(measures, 0)
    for _ in range(RUNS):
        runs = world(num_problems, num_samples, rng)
        for figure, measure in measures.items():
            estimate = measure(*runs)
            hits[figure] += estimate is not None and estimate.low <= truths()[figure] <= estimate.high
    return {figure: number / RUNS for figure, number in hits.items()}


@pytest.mark.parametrize(("num_problems", "num_samples"), [(30, 16), (60, 4)])
def test_intervals_of_shares_hold_the_truth(num_problems: int, num_samples: int) -> None:
    found = coverages(CHEAP, num_problems, num_samples)
    assert all(0.93 <= coverage <= 0.97 for coverage in found.values()), found


@pytest.mark.full
def test_intervals_of_lengths_and_differences_hold_the_truth() -> None:
    found = coverages(BOOTSTRAPPED, 83, 4)
    assert all(0.93 <= coverage <= 0.97 for coverage in found.values()), found


def test_the_bootstrap_holds_the_mean_of_a_long_tail() -> None:
    rng = np.random.default_rng(21)
    truth = float(np.exp(0.6**2 / 2))
    hits = 0
    for _ in range(RUNS):
        low, high = bootstrap_interval(rng.lognormal(0, 0.6, 40), resamples=300)
        hits += low <= truth <= high
    assert 0.93 <= hits / RUNS <= 0.97


def test_the_paired_test_errs_in_no_more_than_5_of_100() -> None:
    rng = np.random.default_rng(22)
    differences = rng.normal(0, 1, (RUNS, 9))
    # of the 512 ways to flip nine signs 24 are as far out as a p of 0.047: it can err in 4.7 of 100, and not in 5
    values = [sign_flip_p(row) for row in differences]
    assert 0.037 <= np.mean(np.asarray(values) <= 0.05) <= 0.057
    # with differences that are alike it errs less, and never more
    values = [sign_flip_p(np.round(row * 4) / 4) for row in differences]
    assert np.mean(np.asarray(values) <= 0.05) <= 0.057
