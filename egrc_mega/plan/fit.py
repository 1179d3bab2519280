"""How the three constants were found: the least sum of squared log-ratios over the rows under `fitted_on`.

Those are the four steps of dense models on H100 that NeMo-RL 0.5 publishes: two models, each on-policy and one step
off.
Everything else that is published is for comparison only. `tests/plan/test_published.py` fits again.
"""

import math

from egrc_mega.plan.constants import Constants
from egrc_mega.plan.published import Row, predicted_seconds

START = (0.4, 0.7, 0.005)
FIRST_FACTOR, ROUNDS = 1.15, 24


def fit(rows: list[Row]) -> Constants:
    """Constants by a search along one of them at a time, in ever smaller factors; deterministic."""
    values, factor = list(START), FIRST_FACTOR
    least = misfit(Constants(*values), rows)
    for _round in range(ROUNDS):
        before = least
        for place in range(len(values)):
            for step in (factor, 1 / factor):
                tried = [value * step if i == place else value for i, value in enumerate(values)]
                found = misfit(Constants(*tried), rows)
                if found < least:
                    values, least = tried, found
        if least == before:
            factor = math.sqrt(factor)
    return Constants(*values)


def misfit(constants: Constants, rows: list[Row]) -> float:
    """Sum of the squared logarithms of predicted over published; a share above one is infinitely bad."""
    if max(constants.flops_share, constants.bandwidth_share) > 1:
        return math.inf
    return sum(math.log(predicted_seconds(row, constants) / row.seconds) ** 2 for row in rows)
