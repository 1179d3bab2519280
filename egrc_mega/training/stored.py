"""A step's lesson as the rollouts file keeps it."""

from collections.abc import Sequence

from egrc_mega.methods.records import Credit
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.types import Group, Sample


def stored_groups(groups: Sequence[Group], credits: Sequence[Sequence[Credit]]) -> list[StoredGroup]:
    """Every sample with what it was worth and what it taught."""
    return [
        StoredGroup(
            key=group.problem.key,
            prompt=group.problem.text,
            answer=group.problem.answer,
            facts=group.problem.facts,
            samples=tuple(_stored(sample, credit) for sample, credit in zip(group.samples, row, strict=True)),
        )
        for group, row in zip(groups, credits, strict=True)
    ]


def _stored(sample: Sample, credit: Credit) -> StoredSample:
    completion, mask = sample.completion, sample.completion.sampling_mask
    return StoredSample(
        text=sample.text,
        output_ids=completion.output_ids,
        sampled=completion.sampled,
        logprobs=completion.logprobs,
        entropies=sample.entropies,
        grade=sample.grade.value,
        reason=str(sample.reason),
        well_formed=sample.well_formed,
        truncated=completion.truncated,
        reward=credit.reward,
        terms=credit.terms,
        advantage=credit.advantage if isinstance(credit.advantage, float) else credit.advantage.astype("float32"),
        kept=credit.kept,
        versions=completion.weight_versions,
        tag=sample.ask.tag,
        think_length=sample.think_length,
        max_new_tokens=sample.ask.max_new_tokens,
        facts=sample.ask.facts,
        token_ends=sample.token_ends,
        reference_kl=sample.reference_kl,
        prompt_ids=sample.prompt_ids,
        mask_counts=None if mask is None else mask.counts,
        mask_ids=None if mask is None else mask.token_ids,
    )
