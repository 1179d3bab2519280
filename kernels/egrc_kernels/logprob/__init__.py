"""Token log-prob and entropy from (a vocabulary shard of) logits."""

from egrc_kernels.logprob.api import logprob_entropy

__all__ = ["logprob_entropy"]
