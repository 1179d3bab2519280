"""Accuracy at token budgets, all from one set of samples: what is right within the budget, and what it costs.

A response that ends within the budget is the one that a cap would have given, for tokens are drawn one after the other;
a longer one would have been cut, and a cut response counts as wrong at the budget's full length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.statistics.shares import Share, share_of

BUDGETS = (2048, 4096, 8192, 16384, 32768)
"""In tokens."""


@dataclass(frozen=True, slots=True)
class AtBudget:
    """What a cap on the length would have given."""

    budget: int
    share: Share
    """Right and ended within the budget."""
    mean_length: float
    """Tokens spent, none beyond the budget."""
    share_cut: float
    """Share of the responses that are longer."""


def accuracy_at_budgets(outcomes: Outcomes, budgets: Sequence[int] = BUDGETS) -> list[AtBudget]:
    """One entry a budget; none where lengths are not known for all responses."""
    if not len(outcomes) or not np.isfinite(outcomes.length).all():
        return []
    found = []
    for budget in budgets:
        within = outcomes.length <= budget
        share = share_of(outcomes, np.where(within, outcomes.right, 0.0))
        if share is not None:
            spent = outcomes.mean_by_problem(np.minimum(outcomes.length, budget))
            found.append(AtBudget(budget, share, float(spent.mean()), float(1 - within.mean())))
    return found
