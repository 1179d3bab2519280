"""S-GRPO: of the answers given at several exits of one line of thought, the earliest right one pays most.

R = 1 / 2^(k - 1) for the k-th right answer from the front, 0 for a wrong one        A = R - mean R

The method cuts one sampled line of thought at 8 random places and has the model answer at each. This stack samples a
response once and cannot go on from inside it, so a stage ranks the responses of a group by how long they think; in a
recorded batch the exit is the sample's fact `exit_index`. Answers at one exit share a rank.

Source: arXiv 2505.07686 (section 3.2; no code is public): lr 1e-6, 128 problems, groups of 8.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import centred, group_problems, within_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group, Sample


class SGrpoSection(StageSection):
    """S-GRPO (arXiv 2505.07686): rewards decay from exit to exit."""

    method: Literal["s_grpo"] = "s_grpo"
    """Which method the stage trains with."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Reward of a right answer, as a share of the right one before it."""
    loss: LossSection = LossSection(ratio="token", eps_clip_high=0.2)
    """Reduction of the loss."""


class SGrpo(Method[SGrpoSection, NoState]):
    """Whoever is right earlier gets twice as much."""

    Config = SGrpoSection
    source = "S-GRPO, arXiv 2505.07686"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the group's mean."""
        return within_groups(groups, self._worth, centred)

    def _worth(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        exits = sorted(_exit(sample) for sample in samples if sample.right)
        return [{"answer": self.section.decay ** exits.index(_exit(s)) if s.right else 0.0} for s in samples]

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample."""
        yield from group_problems(self.section)


def _exit(sample: Sample) -> float:
    """Where thinking ended: the exit's number, or the tokens up to it."""
    thought = sample.length if sample.think_length is None else sample.think_length
    return sample.ask.facts.get("exit_index", float(thought))
