"""The masked advantage loss of packed sequences, with its gradient and metrics in two launches."""

from egrc_kernels.policy_loss.api import LossMetrics, PolicyLoss, policy_loss, token_weights
from egrc_kernels.policy_loss.reference import kl_estimate
from egrc_kernels.policy_loss.settings import LossSettings

__all__ = ["LossMetrics", "LossSettings", "PolicyLoss", "kl_estimate", "policy_loss", "token_weights"]
