"""Token log-prob and entropies from hidden states and (a vocabulary shard of) the output layer, without all logits."""

from egrc_kernels.linear_logprob.api import linear_logprob
from egrc_kernels.linear_logprob.in_forward import linear_token_loss
from egrc_kernels.logprob.api import LogprobStats

__all__ = ["LogprobStats", "linear_logprob", "linear_token_loss"]
