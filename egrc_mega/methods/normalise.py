"""From rewards to advantages: every normaliser that the named methods use, once.

A normaliser maps the rewards of a set of samples to their advantages. What is ungraded takes no part.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Literal

from egrc_mega.methods.records import DROPPED, Credit
from egrc_mega.sections.stage import StageSection
from egrc_mega.types import Grade, Group, Sample

Normaliser = Callable[[Sequence[float]], Sequence[float]]
Terms = Callable[[Sample], Mapping[str, float]]
"""The named parts of a sample's reward; the reward is their sum."""
GroupTerms = Callable[[Sequence[Sample]], Sequence[Mapping[str, float]]]
"""The same for samples whose rewards depend on each other: of each of the graded samples of a group, in order."""
Normalisation = Literal["std", "mean_only"]
"""What is done to rewards within a group."""


def itself(rewards: Sequence[float]) -> Sequence[float]:
    """A = R, the reward itself."""
    return rewards


def centred(rewards: Sequence[float]) -> Sequence[float]:
    """A = R - mean R (Dr.GRPO); exactly 0 where all rewards are equal."""
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean = fmean(rewards)
    return [reward - mean for reward in rewards]


def z_score(eps: float = 1e-6, min_std: float = 0.0) -> Normaliser:
    """A = (R - mean R) / (max(std R, min_std) + eps), std unbiased; 0 where all rewards are equal (GRPO)."""

    def normalise(rewards: Sequence[float]) -> Sequence[float]:
        if len(rewards) < 2 or max(rewards) == min(rewards):
            return [0.0] * len(rewards)
        mean, scale = fmean(rewards), max(stdev(rewards), min_std) + eps
        return [(reward - mean) / scale for reward in rewards]

    return normalise


def normaliser(normalisation: Normalisation, eps: float, min_std: float) -> Normaliser:
    """The one that a section's fields ask for."""
    return centred if normalisation == "mean_only" else z_score(eps, min_std)


def group_problems(section: StageSection) -> Iterator[str]:
    """For `Method.problems`, of a method that compares the samples of a group."""
    if section.rollout.n < 2:
        yield f"rollout.n: {section.rollout.n}, but a group of one has no statistics and no advantage; raise it"


def leave_one_out(rewards: Sequence[float]) -> Sequence[float]:
    """A = R - mean of the others (RLOO); 0 for a single sample."""
    n = len(rewards)
    return [0.0] * n if n < 2 else [advantage * n / (n - 1) for advantage in centred(rewards)]


def over_groups(groups: Sequence[Group], terms: Terms, normalise: Normaliser) -> list[list[Credit]]:
    """Credits of every group, normalised within the group."""
    return within_groups(groups, _one_by_one(terms), normalise)


def over_batch(groups: Sequence[Group], terms: Terms, normalise: Normaliser) -> list[list[Credit]]:
    """Credits of every group, normalised over all samples of the batch."""
    flat = iter(_credits([s for group in groups for s in group.samples], _one_by_one(terms), normalise))
    return [[next(flat) for _sample in group.samples] for group in groups]


def over_both(groups: Sequence[Group], terms: Terms, eps: float, min_std: float = 0.0) -> list[list[Credit]]:
    """A = (R - mean R of the group) / (max(std R of the batch, min_std) + eps), std unbiased."""
    rows = over_groups(groups, terms, centred)
    rewards = [credit.reward for row in rows for credit in row if credit.reward is not None]
    scale = max(stdev(rewards) if len(rewards) > 1 else 0.0, min_std) + eps
    return [[replace(credit, advantage=float(credit.advantage) / scale) for credit in row] for row in rows]


def within_groups(groups: Sequence[Group], terms: GroupTerms, normalise: Normaliser) -> list[list[Credit]]:
    """Credits of every group whose rewards depend on each other, normalised within the group."""
    return [_credits(group.samples, terms, normalise) for group in groups]


def each_sample(
    groups: Sequence[Group], rows: Sequence[Sequence[Credit]], change: Callable[[Credit, Sample], Credit]
) -> list[list[Credit]]:
    """Every credit, changed with a look at its sample."""
    return [
        [change(credit, sample) for credit, sample in zip(row, group.samples, strict=True)]
        for row, group in zip(rows, groups, strict=True)
    ]


def _one_by_one(terms: Terms) -> GroupTerms:
    return lambda samples: [terms(sample) for sample in samples]


def _credits(samples: Sequence[Sample], terms: GroupTerms, normalise: Normaliser) -> list[Credit]:
    """A credit whose advantage is 0 moves nothing: it is dropped, and its reward still counts in the record."""
    graded = [sample for sample in samples if sample.grade is not Grade.UNGRADED]
    judged = [_with_reward(parts) for parts in terms(graded)] if graded else []
    advantages = normalise([credit.reward or 0.0 for credit in judged]) if judged else []
    taught = iter(
        replace(credit, advantage=advantage, kept=advantage != 0.0)
        for credit, advantage in zip(judged, advantages, strict=True)
    )
    return [DROPPED if sample.grade is Grade.UNGRADED else next(taught) for sample in samples]


def _with_reward(terms: Mapping[str, float]) -> Credit:
    return Credit(reward=sum(terms.values()), terms=terms)
