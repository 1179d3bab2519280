"""Token log-prob among the tokens that a row was sampled from, from hidden states and the output layer."""

from egrc_kernels.masked_logprob.api import SamplingMasks, masked_logprob

__all__ = ["SamplingMasks", "masked_logprob"]
