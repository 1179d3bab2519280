"""The figures of an evaluation and their intervals."""

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054


def wilson_interval(num_right: int, num: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was counted."""
    if num == 0:
        return 0.0, 1.0
    share = num_right / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; the same for the same seed."""
    array = np.asarray(values, dtype=np.float64)
    indices = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[indices].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def l_acc(accuracy: float, length: float, base_length: float) -> float:
    """Acc * sqrt(1 - L / L_base) (paper 4.1); 0 when the responses are no shorter than the base's."""
    return accuracy * math.sqrt(max(0.0, 1 - length / base_length))
