"""Token weights that make the sum of token losses the mean the configuration asks for.

    seq-mean-token-mean (paper 3.1):  w = 1 / (|o| N)        token-mean:  w = 1 / (all tokens)

|o| counts the tokens the policy chose: those the environment wrote have weight 0 and do not dilute the rest. N and the
token count are over every graded rollout of the update ("all": the indicator of positive-only stays inside the mean) or
over the kept ones ("kept"). The weights are computed once for the whole batch, so no split over micro-batches or ranks
can change the loss.
"""

from collections.abc import Sequence

from egrc_mega.config.schema import LossSection


def token_weights(
    masks: Sequence[Sequence[int]], is_kept: Sequence[bool], loss: LossSection
) -> list[tuple[float, ...]]:
    """One weight per output token of every rollout.

    Args:
        masks: for each graded rollout, 1 where the policy chose the token.
        is_kept: whether the rollout has an advantage.
    """
    counted = [mask for mask, kept in zip(masks, is_kept, strict=True) if kept or loss.denominator == "all"]
    num_sequences, num_tokens = len(counted), sum(map(sum, counted))
    weights = []
    for mask in masks:
        own = sum(mask)
        total = own * num_sequences if loss.agg == "seq-mean-token-mean" else num_tokens
        weights.append(tuple(bit / total if total else 0.0 for bit in mask))
    return weights
