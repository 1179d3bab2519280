"""Two runs over the same problems, side by side: what decides between them is the difference within each problem."""

from dataclasses import dataclass

import numpy as np

from egrc_mega.errors import DataError
from egrc_mega.evaluation.statistics.outcomes import FloatColumn, Outcomes

SHOWN = 60


@dataclass(frozen=True, eq=False)
class Pairing:
    """[M] Means over each problem's samples, of the first run and of the second; NaN where nothing is known."""

    first_right: FloatColumn
    second_right: FloatColumn
    first_length: FloatColumn
    second_length: FloatColumn
    is_single: bool
    """One sample a problem in both runs."""


def paired(first: Outcomes, first_label: str, second: Outcomes, second_label: str) -> Pairing:
    """The runs problem by problem.

    Raises:
        DataError: they have not answered the same problems.
    """
    missing = [key for key in first.keys if key not in set(second.keys)]
    added = [key for key in second.keys if key not in set(first.keys)]
    if missing or added:
        lacking = second_label if missing else first_label
        shown = (missing or added)[0]
        raise DataError(
            f"{first_label} and {second_label} cannot be paired: {len(missing)} of {len(first.keys)} problems are "
            f"missing in the second and {len(added)} in the first; {lacking} lacks {shown[:SHOWN]!r}; evaluate both on "
            f"the same set"
        )
    second = second.in_order(first.keys)
    is_single = bool((np.concatenate([first.counts, second.counts]) == 1).all())
    return Pairing(
        first.mean_by_problem(first.right),
        second.mean_by_problem(second.right),
        first.mean_by_problem(first.length),
        second.mean_by_problem(second.length),
        is_single,
    )
