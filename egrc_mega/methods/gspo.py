"""GSPO: GRPO with one ratio a response, the geometric mean of its tokens' ratios, and a narrow clip around it.

R = 1 if right, else 0        A = (R - mean R) / (std R + eps)        s = exp(mean over tokens of log pi - log pi_old)
loss = - mean over responses of min(s A, clip(s, 1 - 3e-4, 1 + 4e-4) A)

verl also bounds log s by 10 from above, which no update comes near.

Source: arXiv 2507.18071 (eq. 5 to 7; 5.1: clip 3e-4 and 4e-4); verl, core_algos.py: 1545.
"""

from typing import Literal

from egrc_mega.methods.comparing import Summing, SumSection
from egrc_mega.methods.method import NoState
from egrc_mega.sections.stage import LossSection


class GspoSection(SumSection):
    """A stage of GSPO (arXiv 2507.18071)."""

    method: Literal["gspo"] = "gspo"
    """Which method the stage trains with."""
    loss: LossSection = LossSection(ratio="sequence", eps_clip=3e-4, eps_clip_high=4e-4)
    """One clipped ratio a response, then the mean over responses."""


class Gspo(Summing[GspoSection, NoState]):
    """Accuracy within the group; the response is the unit of the ratio."""

    Config = GspoSection
    source = "GSPO, arXiv 2507.18071; verl core_algos.py"
