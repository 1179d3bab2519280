"""Token log-prob and entropy from (a vocabulary shard of) logits."""

from egrc_kernels.logprob.api import LogprobStats, logprob_entropy

__all__ = ["LogprobStats", "logprob_entropy"]
