"""LC-R1: thinking beyond the point where the answer stands is cut off before training, and its end is paid for.

R = 1[well formed] + 1[right] + w (1 - l / (max l of the fully right + 1e-4)), the last 0 in a group without any
A = R - mean R; at `</think>` of a fully right one + add (1 - valid / (think + 1e-4)), or - add where valid is 0

Fully right: right and well formed. l counts tokens before the stop token, after the cut: a fully right response keeps
its first `valid` tokens of thinking, and all from `</think>` on. The authors find `valid` with a model of their own;
here it is where the gold answer first stands in the thinking, or what a recorded batch says.

Source: arXiv 2506.14755; zxiangx/LC-R1 7a6bd8b, grpo_trainer.py, train.py (2e-6, groups of 8, temperature .9, KL .04)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.normalise import centred, group_problems, within_groups
from egrc_mega.methods.records import Credit, Edit, View
from egrc_mega.methods.thoughts import answered_after
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Group, Sample


class LcR1Section(StageSection):
    """LC-R1 (arXiv 2506.14755): train on the thinking that was needed."""

    method: Literal["lc_r1"] = "lc_r1"
    """Which method the stage trains with."""
    length_weight: float = 1.0
    """w, of the length term."""
    end_weight: float = 1.0
    """add, of the end of thinking."""
    rollout: SamplingSection = SamplingSection(n=8, temperature=0.9, max_new_tokens=8192)
    """Sampling of the stage."""
    loss: LossSection = LossSection(agg="token-mean", ratio="token", eps_clip_high=0.2)
    """Reduction of the loss."""


class LcR1(Method[LcR1Section, NoState]):
    """Responses are cut where they had the answer, and compared by what is left."""

    Config = LcR1Section
    needs = frozenset({"token_ends"})
    source = "LC-R1, arXiv 2506.14755; zxiangx/LC-R1"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Rewards less the group's mean; cut responses and the ends of their thinking."""
        rows = within_groups(groups, self._worth, centred)
        return [self._ended(group, row) for group, row in zip(groups, rows, strict=True)]

    def _worth(self, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
        lengths = [_kept_length(sample) for sample in samples]
        longest = max((n for n, s in zip(lengths, samples, strict=True) if _is_whole(s)), default=None)
        terms = [0.0 if longest is None else self.section.length_weight * (1 - n / (longest + 1e-4)) for n in lengths]
        return [
            {"format": float(s.well_formed), "answer": float(s.right), "length": term}
            for s, term in zip(samples, terms, strict=True)
        ]

    def _ended(self, group: Group, row: Sequence[Credit]) -> list[Credit]:
        pairs = zip(row, group.samples, strict=True)
        is_alone = sum(map(is_graded, group.samples)) < 2
        return [c if is_alone or not (s.think_length and _is_whole(s)) else self._cut(c, s) for c, s in pairs]

    def _cut(self, credit: Credit, sample: Sample) -> Credit:
        think, valid = (sample.think_length or 1) - 1, answered_after(sample)
        ids, stop = sample.completion.output_ids, valid or think
        kept = np.concatenate([ids[:stop], ids[think:]])
        values = np.full(len(kept), float(credit.advantage), np.float64)
        values[stop] += self.section.end_weight * (1 - valid / (think + 1e-4) if valid else -1.0)
        edit = Edit(output_ids=kept, first_changed=stop) if stop < think else None
        return replace(credit, advantage=values, kept=True, edit=edit)

    def problems(self) -> Iterator[str]:
        """Statistics need more than one sample."""
        yield from group_problems(self.section)


def _is_whole(sample: Sample) -> bool:
    return sample.right and sample.well_formed


def _kept_length(sample: Sample) -> int:
    """Tokens before the stop token, after the cut."""
    think, valid = sample.think_length, answered_after(sample) if _is_whole(sample) else 0
    cut = think - 1 - valid if think and valid else 0
    return sample.length - cut - (not sample.completion.truncated)
