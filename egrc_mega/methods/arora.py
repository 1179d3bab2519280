"""Training to reason efficiently (Arora and Zanette): a right answer pays less the longer it is among the right ones.

R = c (1 - alpha sigmoid((|y| - mean_right) / (std_right + 1e-7)))        A = R - mean of the others (RLOO)

paper: that. code: A is then brought to mean 0 and deviation 1 over all tokens of the batch. A KL term stands in the
reward, token by token (`reward_kl_coef`).

Source: arXiv 2502.04463; Zanette-Labs/efficient-reasoning e3611e4, math_server.py (population deviation),
replay_buffer.py (population variance, at least 1e-8), run_rloo_1.5B.sh: alpha .1, groups of 8, lr 5e-6, KL .001.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat

from egrc_mega.methods.method import NoState, is_graded
from egrc_mega.methods.normalise import leave_one_out, within_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.methods.reward_kl import PaysKl, RewardKlKind, RewardKlSection
from egrc_mega.methods.shapes import sigmoid_of_length
from egrc_mega.sections.stage import LossSection
from egrc_mega.types import Group, Sample


class AroraSection(RewardKlSection):
    """Arora and Zanette (arXiv 2502.04463): shorter than the other right answers pays."""

    method: Literal["arora"] = "arora"
    """Which method the stage trains with."""
    variant: Literal["paper", "code"] = "paper"
    """`code` also whitens advantages over the tokens of the batch."""
    alpha: NonNegativeFloat = 0.1
    """What of the reward hangs on the length."""
    reward_kl_kind: RewardKlKind = "token"
    """token: each token pays for itself and those after it, once the baseline is off. sum: the whole response does,
    before it."""
    loss: LossSection = LossSection(ratio="token", eps_clip_high=0.2)
    """Reduction of the loss."""


class Arora(PaysKl[AroraSection, NoState]):
    """Accuracy, less a sigmoid of how long a right answer is for its group."""

    Config = AroraSection
    source = "Arora and Zanette, arXiv 2502.04463; Zanette-Labs/efficient-reasoning"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards against the others of the group."""
        rows = self.with_kl_of_tokens(groups, within_groups(groups, self._worth, leave_one_out))
        return _whitened(groups, rows) if self.section.variant == "code" else rows

    def _worth(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        shares = sigmoid_of_length(samples, ddof=0, eps=1e-7)
        return [
            {"answer": float(sample.right), "length": -self.section.alpha * share, **self.kl_of_response(sample)}
            for sample, share in zip(samples, shares, strict=True)
        ]


def _whitened(groups: Sequence[Group], rows: Sequence[Sequence[Credit]]) -> list[list[Credit]]:
    """Mean 0 and deviation 1 over tokens: a response weighs as much as it is long."""
    sizes = [[sample.length * is_graded(sample) for sample in group.samples] for group in groups]
    values = np.concatenate(
        [
            np.broadcast_to(np.asarray(credit.advantage, np.float64), (size,))
            for own, row in zip(sizes, rows, strict=True)
            for size, credit in zip(own, row, strict=True)
            if size
        ]
        or [np.zeros(0)]
    )
    if not len(values):
        return [list(row) for row in rows]
    mean = float(values.mean())
    scale = 1 / math.sqrt(max(float(values.var()), 1e-8))
    return [
        [_moved(credit, mean, scale) if size else credit for size, credit in zip(own, row, strict=True)]
        for own, row in zip(sizes, rows, strict=True)
    ]


def _moved(credit: Credit, mean: float, scale: float) -> Credit:
    advantage = (credit.advantage - mean) * scale
    return replace(credit, advantage=advantage, kept=bool(np.any(advantage)))
