"""Dr.GRPO: GRPO without its two biases: no division by the deviation, none by the length of the response.

R = 1 if right, else 0        A = R - mean R        loss = mean over responses of (sum over tokens / 3000)

Source: arXiv 2503.20783 (eq. 3); sail-sg/understand-r1-zero dfca49d, train_zero_math.py: 286-308.
"""

from typing import Literal

from egrc_mega.methods.comparing import Summing, SumSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.normalise import Normalisation
from egrc_mega.sections.stage import LossSection


class DrGrpoSection(SumSection):
    """A stage of Dr.GRPO (arXiv 2503.20783)."""

    method: Literal["dr_grpo"] = "dr_grpo"
    """Which method the stage trains with."""
    advantage_normalisation: Normalisation = "mean_only"
    """`mean_only`: A = R - mean, in units of the reward (Dr.GRPO). `std`: A = (R - mean) / std (GRPO)."""
    loss: LossSection = LossSection(agg="seq-mean-token-sum", sum_divisor=3000, ratio="token", eps_clip_high=0.2)
    """All tokens weigh the same, in this batch and the next; the constant is the code's generation cap."""


class DrGrpo(Summing[DrGrpoSection, NoState]):
    """Accuracy within the group, in units of the reward."""

    Config = DrGrpoSection
    source = "Dr.GRPO, arXiv 2503.20783; sail-sg/understand-r1-zero"
