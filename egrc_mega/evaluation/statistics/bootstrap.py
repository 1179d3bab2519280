"""The studentised bootstrap over problems, for any smooth function of means: a ratio, a difference, L-Acc.

Problems are drawn anew, with all their samples; each resample's deviation is measured in its own standard error, by
the delta method (Efron and Tibshirani, An Introduction to the Bootstrap, 12.5).

M: problems. K: columns, one for each mean that the figure is made of. B: resamples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]
"""From means [..., K] to the figure [...]."""
BATCH_ELEMENTS = 2**22
"""Of the counts that are held at once: 32 MB."""
RELATIVE_STEP = 1e-6
LEAST_ERROR = 0.3
"""Of a resample, as a share of the whole sample's standard error: one that has missed the only outlier has next to
none, and its deviation in such errors says nothing. In 1,000 runs of a long tail it moved the coverage by nothing."""


def studentised_interval(columns: Floats, figure: Figure, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of figure(means of the columns); the same for the same seed. A point where nothing varies.

    Args:
        columns: [M, K] one row a problem, finite; at least one row.
    """
    means = columns.mean(axis=0)
    value = float(figure(means))
    squares = columns[:, :, None] * columns[:, None, :]
    error = float(_standard_errors(figure, means[None], squares.mean(axis=0)[None], len(columns))[0])
    if not error > 0:
        return value, value
    rng = np.random.default_rng(seed)
    deviations = _deviations(columns, squares, figure, (value, error), rng, resamples)
    low, high = np.quantile(deviations, [0.975, 0.025])
    return value - float(low) * error, value - float(high) * error


def _deviations(
    columns: Floats,
    squares: Floats,
    figure: Figure,
    whole: tuple[float, float],
    rng: np.random.Generator,
    resamples: int,
) -> Floats:
    """[B] Each resample's deviation from the figure in its own standard errors; those without a figure are left out.

    Args:
        whole: the figure of the whole sample and its standard error.
    """
    num, (value, error) = len(columns), whole
    flat = squares.reshape(num, -1)
    found = []
    batch = max(1, BATCH_ELEMENTS // num)
    for start in range(0, resamples, batch):
        counts = rng.multinomial(num, np.full(num, 1 / num), size=min(batch, resamples - start)) / num
        means = counts @ columns
        seconds = (counts @ flat).reshape(-1, *squares.shape[1:])
        errors = np.maximum(_standard_errors(figure, means, seconds, num), LEAST_ERROR * error)
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append((figure(means) - value) / errors)
    deviations = np.concatenate(found)
    return deviations[np.isfinite(deviations)]


def _standard_errors(figure: Figure, means: Floats, seconds: Floats, num: int) -> Floats:
    """[B] By the delta method: the figure's slope in each mean, and the means' covariances.

    Args:
        means: [B, K].
        seconds: [B, K, K] means of the products of two columns.
        num: of problems.
    """
    covariances = seconds - means[:, :, None] * means[:, None, :]
    slopes = _slopes(figure, means)
    variances = np.einsum("bi,bij,bj->b", slopes, covariances, slopes) / max(1, num - 1)
    # what rounding leaves of a variance of zero is no variance
    scale = np.einsum("bi,bi->b", slopes * slopes, means * means)
    return np.sqrt(np.where(variances > 1e-13 * scale, variances, 0.0))


def _slopes(figure: Figure, means: Floats) -> Floats:
    """[B, K] Central differences."""
    slopes = np.empty_like(means)
    for column in range(means.shape[1]):
        step = np.zeros_like(means)
        step[:, column] = RELATIVE_STEP * np.maximum(np.abs(means[:, column]), RELATIVE_STEP)
        slopes[:, column] = (figure(means + step) - figure(means - step)) / (2 * step[:, column])
    return slopes
