"""Token weights that make the sum of token losses the mean the configuration asks for.

    seq-mean-token-mean (paper 3.1):  w = 1 / (|o| N)        token-mean:  w = 1 / (all tokens)

|o| counts the tokens the policy chose: those the environment wrote have weight 0 and do not dilute the rest. N and the
token count are over every graded rollout of the update ("all": the indicator of positive-only stays inside the mean) or
over the kept ones ("kept"). The weights are computed once for the whole batch, so no split over micro-batches or ranks
can change the loss.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from egrc_mega.config.schema import LossSection


def token_weights(
    chosen: Sequence[NDArray[np.bool_]], is_kept: Sequence[bool], loss: LossSection
) -> list[NDArray[np.float32]]:
    """One weight per output token of every rollout.

    Args:
        chosen: for each graded rollout, [O] True where the policy chose the token.
        is_kept: whether the rollout has an advantage.
    """
    counts = [int(np.count_nonzero(own)) for own in chosen]
    counted = [count for count, kept in zip(counts, is_kept, strict=True) if kept or loss.denominator == "all"]
    num_sequences, num_tokens = len(counted), sum(counted)
    weights = []
    for own, count in zip(chosen, counts, strict=True):
        total = count * num_sequences if loss.agg == "seq-mean-token-mean" else num_tokens
        weights.append(np.where(own, np.float32(1 / total if total else 0.0), np.float32(0.0)))
    return weights
