"""CISPO: REINFORCE on every token, weighed by a capped importance ratio: no token's gradient is clipped away.

R = 1 if right, else 0        A = (R - mean R) / (std R + eps)        loss = - min(1 + eps_high, r) A log pi, r detached

Source: arXiv 2506.13585 (MiniMax-M1, eq. 4 and 5; 16 updates a rollout batch): no lower bound; eps_high is tuned and
not given.
"""

from collections.abc import Iterator
from typing import Literal

from egrc_mega.methods.comparing import Summing, SumSection
from egrc_mega.methods.method import NoState
from egrc_mega.sections.stage import LossSection


class CispoSection(SumSection):
    """A stage of CISPO (arXiv 2506.13585)."""

    method: Literal["cispo"] = "cispo"
    """Which method the stage trains with."""
    loss: LossSection = LossSection(agg="token-mean", ratio="capped", eps_clip_high=4.0)
    """A mean over tokens; eps_clip_high is eps_high, which is unverified."""


class Cispo(Summing[CispoSection, NoState]):
    """Accuracy within the group; ratios are capped, gradients never clipped."""

    Config = CispoSection
    source = "CISPO, arXiv 2506.13585"

    def problems(self) -> Iterator[str]:
        """Statistics need a group, and the ratio is capped."""
        yield from super().problems()
        if self.section.loss.ratio != "capped":
            yield f"loss.ratio: {self.section.loss.ratio}, but the ratio's cap is what makes CISPO; set capped"
