"""How far apart trainer and servers are over all that a step trains on, tokens of older weights included.

The log-prob gate compares tokens of the present weights and finds what is broken; these figures say how much of the
batch still counts once its tokens are weighed by importance, w = trainer / server probability. Effective sample size:
(sum of w)^2 / (n sum of w^2), the share of n equally weighed draws that are worth as much (Kong 1992; Owen, Monte Carlo
theory, methods and examples, 9.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egrc_mega.policy.packing import joined
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.types import TrainSample


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Figures of one batch before its first update; None where no trained token has a server's log-prob."""

    ess_tokens: float | None = None
    """Effective sample size of the tokens, as a share of them; before any cap or mask."""
    ess_sequences: float | None = None
    """The same of the responses, each weighed by the product of its tokens' ratios."""
    mismatch_kl: float | None = None
    """Nats a token, of the servers' distributions to the trainer's: mean of w - 1 - log w (k3)."""


def mismatch_of(samples: Sequence[TrainSample], stats: TokenStats) -> Mismatch:
    """Over the tokens that are trained and whose log-prob a server told; `stats` are the trainer's, in that order."""
    server = joined(samples, "rollout_logprobs", np.float64)
    is_used = (joined(samples, "loss_weights", np.float32) != 0) & ~np.isnan(server)
    if not is_used.any():
        return Mismatch()
    numbers = np.repeat(np.arange(len(samples)), [len(sample.output_ids) for sample in samples])[is_used]
    shifts = (stats.logprobs.double().numpy() - server)[is_used]
    of_sequences = np.bincount(numbers, shifts)[np.unique(numbers)]
    return Mismatch(
        ess_tokens=effective_sample_size(shifts),
        ess_sequences=effective_sample_size(of_sequences),
        mismatch_kl=float(np.mean(np.expm1(shifts) - shifts)),
    )


def effective_sample_size(log_weights: NDArray[np.float64]) -> float:
    """[n] logs of weights, n at least 1 -> a share from 1/n to 1. A common factor of the weights changes nothing."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum()))
