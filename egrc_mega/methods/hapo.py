"""HAPO: shorter than the shortest right response that earlier steps have seen of the same problem.

f = cos(pi/2 min(|y| / h, 2)), h the shortest right response of earlier steps; f = 0 where there is none yet
R = c + w max(-.7, f) if right, w min(0, f) otherwise        A = (R - mean R) / (std R + eps)

Source: arXiv 2505.11225; HCY123902/HAPO c91ae3b, utils.py: 38-54, grpo_trainer.py: 66-118 (`min`: the history moves
after the rewards), train_grpo.sh: w 1, cap 32768, groups of 2, 5 epochs. Its trainer (TRL) adds 1e-4 to the deviation.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.records import View
from egrc_mega.sections.base import Section
from egrc_mega.types import Group, Problem, Sample


class HapoSection(ComparingSection):
    """A stage of HAPO (arXiv 2505.11225)."""

    method: Literal["hapo"] = "hapo"
    """Which method the stage trains with."""
    weight: NonNegativeFloat = 1.0
    """w, the weight of the length reward."""
    lowest_right: float = -0.7
    """Bound on the length reward of a right response, which keeps it above every wrong one."""
    history_length: str = "history_length"
    """The fact of a problem (see data.facts) that holds its shortest right response so far, in tokens, where the data
    knows one."""


class HapoState(Section):
    """What earlier steps have seen."""

    shortest: dict[str, int] = Field(default_factory=dict)
    """Key of a problem -> tokens of its shortest right response."""


class Hapo(Comparing[HapoSection, HapoState]):
    """Accuracy, and length against the problem's own history."""

    Config, State = HapoSection, HapoState
    source = "HAPO, arXiv 2505.11225; HCY123902/HAPO"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy and the length reward against the history."""
        history = self._history(samples[0].problem, view.state)
        return [{"answer": float(s.right), "length": self.section.weight * self._gain(s, history)} for s in samples]

    def _history(self, problem: Problem, state: HapoState) -> float | None:
        known = [state.shortest.get(problem.key), problem.facts.get(self.section.history_length)]
        return min((length for length in known if length), default=None)

    def _gain(self, sample: Sample, history: float | None) -> float:
        if history is None:
            return 0.0
        gain = math.cos(math.pi / 2 * min(sample.length / history, 2.0))
        return max(self.section.lowest_right, gain) if sample.right else min(0.0, gain)

    def remember(self, view: View, groups: Sequence[Group]) -> HapoState:
        """The shortest right responses, this step's included."""
        shortest = dict(view.state.shortest)
        for group in groups:
            right = [sample.length for sample in group.samples if sample.right]
            if right:
                key = group.problem.key
                shortest[key] = min([*right, shortest.get(key, right[0])])
        return HapoState(shortest=shortest)
