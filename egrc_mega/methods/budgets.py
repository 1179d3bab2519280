"""Prompts that state a length budget (L1, arXiv 2503.04697), one for each problem and step."""

from collections.abc import Sequence

from egrc_mega.errors import DataError
from egrc_mega.methods.records import View
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Ask, Problem, Sample

BUDGET = "budget"
"""The fact of an ask that holds the number of tokens which the prompt states."""


def asks_with_budget(problem: Problem, view: View, words: str, bounds: tuple[int, int], n: int) -> Sequence[Ask]:
    """A group whose prompt states a budget, drawn uniformly between two bounds, both included.

    Args:
        words: stands behind the problem, `{n}` replaced by the budget.
    """
    low, high = bounds
    budget = low + derive_seed(view.seed, "budget", view.step, problem.key) % (high - low + 1)
    return [Ask(suffix=words.replace("{n}", str(budget)), facts={BUDGET: float(budget)})] * n


def budget_of(sample: Sample) -> float:
    """The budget that a sample's prompt stated.

    Raises:
        DataError: it stated none: the sample was drawn for another method.
    """
    if BUDGET not in sample.ask.facts:
        raise DataError(f"{sample.problem.key}: the sample was asked for without a budget; sample with this method")
    return sample.ask.facts[BUDGET]
