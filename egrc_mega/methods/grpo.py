"""GRPO: rewards compared within a group, PPO's clipped ratio, no critic.

R = 1 if right, else 0        A = (R - mean R) / (std R + eps)

Source: arXiv 2402.03300 (DeepSeekMath, 4.1); verl, core_algos.py, compute_grpo_outcome_advantage: std unbiased, 1e-6
added (TRL adds 1e-4, oat 1e-8).
"""

from typing import Literal

from egrc_mega.methods.comparing import Summing, SumSection
from egrc_mega.methods.method import NoState
from egrc_mega.sections.stage import LossSection


class GrpoSection(SumSection):
    """A stage of GRPO (arXiv 2402.03300)."""

    method: Literal["grpo"] = "grpo"
    """Which method the stage trains with."""
    loss: LossSection = LossSection(ratio="token", eps_clip_high=0.2)
    """1/|o| within a response, then the mean over responses."""


class Grpo(Summing[GrpoSection, NoState]):
    """Accuracy within the group."""

    Config = GrpoSection
    source = "GRPO, arXiv 2402.03300; verl core_algos.py"
