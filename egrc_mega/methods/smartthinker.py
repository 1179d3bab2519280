"""SmartThinker: the length at which a response of this group is likeliest to be right, and a penalty beyond it.

best = (v_c m - v m_c) / (v_c - v), within [min, max]; m, v: mean and (population) variance of all lengths, m_c, v_c: of
the right ones        d = max(0, |y| - best) for right responses, 0 for wrong ones
a = (share of wrong) / (max d of the right - mean d of all + 1e-6); 0 where none is right or none is wrong
R = c - a d        A = (R - mean R) / (std R + eps)

Source: arXiv 2603.08000 (ICML 2026); SJTU-RTEAS/SmartThinker e64d877, src/workers/reward_manager/SmartThinker.py:
163-224 (the edges, in `_best_length`), scripts/SmartThinker_Distill_1.5B.sh: 64 prompts, 8 responses, cap 8000.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Literal

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.method import NoState
from egrc_mega.methods.records import View
from egrc_mega.sections.stage import LossSection
from egrc_mega.types import Sample


class SmartThinkerSection(ComparingSection):
    """A stage of SmartThinker (arXiv 2603.08000)."""

    method: Literal["smartthinker"] = "smartthinker"
    """Which method the stage trains with."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", eps_clip_high=0.2)
    """A mean over tokens of PPO's clipped ratio."""


class SmartThinker(Comparing[SmartThinkerSection, NoState]):
    """Accuracy, less what is longer than the group's best length."""

    Config = SmartThinkerSection
    source = "SmartThinker, arXiv 2603.08000; SJTU-RTEAS/SmartThinker"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy and the penalty beyond the best length."""
        lengths, right = [s.length for s in samples], [s.length for s in samples if s.right]
        best = _best_length(lengths, right)
        excess = [max(0.0, s.length - best) if s.right else 0.0 for s in samples]
        price = 0.0
        if 0 < len(right) < len(samples):
            price = (1 - len(right) / len(samples)) / (max(excess) - fmean(excess) + 1e-6)
        return [{"answer": float(s.right), "length": -price * d} for s, d in zip(samples, excess, strict=True)]


def _best_length(lengths: Sequence[int], right: Sequence[int]) -> float:
    if not right:
        return max(lengths)
    if len(right) == len(lengths):
        return min(lengths)
    mean, mean_right, spread, spread_right = fmean(lengths), fmean(right), pvariance(lengths), pvariance(right)
    if abs(spread_right - spread) < 1e-6:
        return max(lengths) if mean_right < mean else min(lengths)
    if spread_right > spread:
        return min(lengths)
    best = (spread_right * mean - spread * mean_right) / (spread_right - spread)
    return max(min(lengths), min(max(lengths), best))
