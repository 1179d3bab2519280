"""CISPO: REINFORCE on every token, weighed by a capped importance ratio: no token's gradient is clipped away.

R = 1 if right, else 0        A = (R - mean R) / (std R + eps)        loss = - min(1 + eps_high, r) A log pi, r detached

Expressible with one update a rollout batch: then r = pi / pi_server is what `loss.tis_cap` caps. With more of them the
ratio to the trainer's own old log-probs would have to be capped, which the loss does not offer: refused.

Source: arXiv 2506.13585 (MiniMax-M1, eq. 4 and 5): no lower bound; eps_high is tuned and not given.
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
    loss: LossSection = LossSection(agg="token-mean", ratio="none", tis_cap=5.0)
    """A mean over tokens; `tis_cap` is 1 + eps_high."""


class Cispo(Summing[CispoSection, NoState]):
    """Accuracy within the group; ratios are capped, gradients never clipped."""

    Config = CispoSection
    source = "CISPO, arXiv 2506.13585"

    def problems(self) -> Iterator[str]:
        """Statistics need a group, and the cap is one on the ratio to the servers' weights."""
        yield from super().problems()
        updates, loss = self.section.optim.num_updates_per_rollout, self.section.loss
        if updates > 1:
            yield f"optim.num_updates_per_rollout: {updates}, but only the ratio to the servers is capped; set 1"
        if loss.tis_cap is None or loss.ratio != "none":
            yield f"loss: ratio {loss.ratio} and tis_cap {loss.tis_cap}, but tis_cap is the cap; set none and 5.0"
