"""L-Acc = Acc * sqrt(1 - L / L_base) (paper 4.1), which means nothing without the base that it was measured against."""

import math
from dataclasses import dataclass

import numpy as np

from egrc_mega.errors import DataError
from egrc_mega.evaluation.statistics.bootstrap import RESAMPLES, Floats, studentised_intervals
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.statistics.pairing import Pairing, paired

SHOWN_DIGITS = 12
LABEL = "label:"
"""Begins what stands for the hash of weights that nobody has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Which measurement a figure is from: model, protocol and result, each by its content."""

    label: str
    """Of the model, for people."""
    model: str
    """Hash of the weights, or what stands for it where nobody has them."""
    protocol: str
    """Hash of all that decides about the numbers besides the weights."""
    result: str
    """Hash of every response's problem, verdict and length."""

    @property
    def key(self) -> str:
        """The three hashes, shortened, as they stand beside an L-Acc; a label that stands for weights is whole."""
        model = self.model if self.model.startswith(LABEL) else self.model[:SHOWN_DIGITS]
        return ":".join([model, self.protocol[:SHOWN_DIGITS], self.result[:SHOWN_DIGITS]])


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthAccuracy:
    """An L-Acc and what it was measured against."""

    estimate: Estimate
    base: Measured
    base_length: float
    is_no_shorter: bool
    """The responses are no shorter than the base's: the formula has no value there, and 0 stands for it."""


def l_acc(accuracy: float, length: float, base_length: float) -> float:
    """Acc * sqrt(1 - L / L_base) (paper 4.1); 0 when the responses are no shorter than the base's."""
    return accuracy * math.sqrt(max(0.0, 1 - length / base_length))


def l_acc_against(
    outcomes: Outcomes, measured: Measured, base: Outcomes, base_measured: Measured
) -> LengthAccuracy | None:
    """L-Acc with an interval over the problems that both have answered; None when nothing was graded or measured.

    Raises:
        DataError: the base was measured by another protocol, or on other problems.
    """
    if measured.protocol != base_measured.protocol:
        raise DataError(
            f"L-Acc of {measured.label}: its base {base_measured.label} was measured by the protocol "
            f"{base_measured.protocol[:SHOWN_DIGITS]}, not by {measured.protocol[:SHOWN_DIGITS]}; measure the base by "
            f"the same protocol"
        )
    pairing = paired(outcomes, measured.label, base, base_measured.label)
    columns = _columns(pairing)
    if not len(columns):
        return None
    accuracy, length, base_length = map(float, columns.mean(axis=0))
    is_no_shorter = length >= base_length
    value = l_acc(accuracy, length, base_length)
    low, high = l_acc_bounds(columns[None])
    estimate = Estimate(value, float(low[0]), float(high[0]))
    return LengthAccuracy(estimate=estimate, base=base_measured, base_length=base_length, is_no_shorter=is_no_shorter)


def l_acc_bounds(columns: Floats, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """[R], [R] The ends of each run's interval; 0 where its responses are no shorter than the base's.

    Args:
        columns: [R, M, 3] accuracy, length and the base's length of each problem.
    """
    low, high = studentised_intervals(columns, _l_acc, resamples=resamples)
    _accuracy, length, base_length = np.moveaxis(columns.mean(axis=1), -1, 0)
    is_shorter = length < base_length
    return np.where(is_shorter, np.maximum(0.0, low), 0.0), np.where(is_shorter, np.minimum(1.0, high), 0.0)


def _columns(pairing: Pairing) -> Floats:
    """[M, 3] Accuracy, length and the base's length of the problems of which all three are known."""
    columns = np.stack([pairing.first_right, pairing.first_length, pairing.second_length], axis=1)
    return columns[np.isfinite(columns).all(axis=1)]


def _l_acc(means: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 0] * np.sqrt(np.maximum(0.0, 1 - means[..., 1] / means[..., 2]))
