"""Token log-prob and entropies from hidden states and (a vocabulary shard of) the output layer, without all logits."""

from egrc_kernels.linear_logprob.api import LogprobStats, linear_logprob

__all__ = ["LogprobStats", "linear_logprob"]
