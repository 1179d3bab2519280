"""Graded samples made by hand, for tests of methods and batches."""

from collections.abc import Sequence

from egrc_mega.types import Completion, FinishReason, Grade, Group, Prompt, Sample, VersionSpan

PROMPT = Prompt(id="test:1", text="9 a + 1 = ?", token_ids=(1, 12, 13, 20, 4, 23, 25, 26), answer="0")


def make_sample(
    output_ids: Sequence[int],
    *,
    grade: Grade = Grade.RIGHT,
    well_formed: bool = True,
    finish: FinishReason = FinishReason.STOP,
    mask: Sequence[int] | None = None,
    version: str = "v0",
) -> Sample:
    """A sample with log-prob -1 on every token that the policy chose."""
    mask = tuple(mask) if mask is not None else (1,) * len(output_ids)
    completion = Completion(
        rid="test",
        output_ids=tuple(output_ids),
        logprobs=tuple(-1.0 * bit for bit in mask),
        mask=mask,
        finish_reason=finish,
        weight_versions=(VersionSpan(version=version, start=0, end=len(output_ids)),),
    )
    return Sample(prompt=PROMPT, completion=completion, text="", grade=grade, well_formed=well_formed)


def make_group(samples: Sequence[Sample]) -> Group:
    """A group of samples."""
    return Group(prompt=PROMPT, samples=tuple(samples))
