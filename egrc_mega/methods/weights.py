"""Token weights that make the sum of token losses the mean the configuration asks for.

    seq-mean-token-mean (paper 3.1):  w = 1 / (|o| N)        token-mean:  w = 1 / (all tokens)
    seq-mean-token-sum (Dr.GRPO):     w = 1 / (sum_divisor N)

|o| counts the tokens that are trained: those an environment wrote have weight 0 and do not dilute the rest. N and the
token count are over every graded rollout of the update ("all": the indicator of positive-only stays inside the mean) or
over the kept ones ("kept"). Where a method sorts tokens into classes, each class has a mean of its own, times its
weight. The weights are computed once for the whole batch, so no split over micro-batches or ranks can change the loss.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from egrc_mega.sections.stage import LossSection

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]


def token_weights(
    trained: Sequence[BoolArray],
    is_kept: Sequence[bool],
    loss: LossSection,
    classes: Sequence[IntArray | None] | None = None,
) -> list[FloatArray]:
    """One float64 weight per output token of every rollout.

    Args:
        trained: for each graded rollout, bool[O]: True where the token is trained.
        is_kept: whether the rollout is trained on.
        classes: for each rollout the class of each token, int[O]; None: all are of class 0.
    """
    classes = classes or [None] * len(trained)
    weights = [np.zeros(len(mask)) for mask in trained]
    for number, class_weight in enumerate(loss.class_weights):
        members = [_of_class(mask, own, number) for mask, own in zip(trained, classes, strict=True)]
        for weight, member, share in zip(weights, members, _shares(members, is_kept, loss), strict=True):
            weight[member] = class_weight * share
    return weights


def _of_class(trained: BoolArray, classes: IntArray | None, number: int) -> BoolArray:
    if classes is None:
        return trained if number == 0 else np.zeros_like(trained)
    return trained & (classes == number)


def _shares(members: Sequence[BoolArray], is_kept: Sequence[bool], loss: LossSection) -> list[float]:
    """The weight of each token of a rollout; 0 where there is nothing to divide by."""
    sizes = [int(member.sum()) for member in members]
    counted = [size for size, kept in zip(sizes, is_kept, strict=True) if kept or loss.denominator == "all"]
    num_sequences, num_tokens = len(counted), sum(counted)
    totals: list[float] = [size * num_sequences for size in sizes]
    if loss.agg != "seq-mean-token-mean":
        total = num_tokens if loss.agg == "token-mean" else loss.sum_divisor * num_sequences
        totals = [total] * len(sizes)
    return [1 / total if total else 0.0 for total in totals]
