"""How two quantities of tokens go together: Pearson and Spearman, over all tokens and within bins of p(token).

The correlation of entropy and gradient size over all tokens (paper fig. 3d) is largely an identity, for the gradient
at the logits is onehot - p. What is left of it shows within bins of p(token), and at the parameters (methods 4).
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

P_BOUNDS = (0.0, 0.2, 0.5, 0.8, 1.0)
"""Of the bins of p(token)."""
FloatArray = NDArray[np.float64]


def correlation(x: FloatArray, y: FloatArray) -> dict[str, Any]:
    """Pearson and Spearman of [N] pairs and their number; None where fewer than two differ in either."""
    return {"num": len(x), "pearson": pearson(x, y), "spearman": pearson(ranks(x), ranks(y))}


def within_bins(x: FloatArray, y: FloatArray, probability: FloatArray) -> list[dict[str, Any]]:
    """The correlations of the tokens in each bin of p(token)."""
    bins = []
    for low, high in pairwise(P_BOUNDS):
        inside = (probability >= low) & ((probability < high) | (high == P_BOUNDS[-1]))
        bins.append({"p_from": low, "p_to": high} | correlation(x[inside], y[inside]))
    return bins


def pearson(x: FloatArray, y: FloatArray) -> float | None:
    """Pearson's correlation of [N] pairs; None where fewer than two differ in either."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def ranks(values: FloatArray) -> FloatArray:
    """[N] ranks from 1; equal values share the mean of theirs."""
    _distinct, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: FloatArray = (last - (counts - 1) / 2).astype(np.float64)
    return mean[place]
