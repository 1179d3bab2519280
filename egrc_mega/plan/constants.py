"""The three free constants of the time model. Everything else in it is arithmetic on printed figures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constants:
    """How much of what is printed is reached."""

    flops_share: float
    """Of a GPU's dense peak, while the policy trains or scores, pipeline bubbles and communication apart."""
    bandwidth_share: float
    """Of the bandwidth of memory, NVLink and network, wherever the model counts bytes."""
    decode_overhead_s: float
    """Seconds of one decoding step of a server that no bytes account for: launches, scheduling, sampling."""


CONSTANTS = Constants(flops_share=0.429, bandwidth_share=0.653, decode_overhead_s=0.00467)
"""As `fit.py` finds them on four published steps."""
