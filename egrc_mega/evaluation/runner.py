"""Measures the weights that the servers hold on problems never trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from egrc_mega.evaluation.records import Point, Protocol, Response, Subject
from egrc_mega.evaluation.statistics import bootstrap_interval, wilson_interval
from egrc_mega.methods.base import is_right
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Completion, Grade, Prompt, RolloutRequest, Sample, Sampling

NUM_SHOWN = 32
"""Responses kept for the report, the first problems of the file at every point."""

Generate = Callable[[Sequence[RolloutRequest]], list[Completion]]
Judge = Callable[[Sequence[tuple[Prompt, Completion]]], list[Sample]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table, and some of the responses behind it."""

    point: Point
    responses: list[Response]


def measure(
    prompts: Sequence[Prompt], subject: Subject, protocol: Protocol, generate: Generate, judge: Judge
) -> Measurement:
    """Ask for a response to every prompt and grade it. Every subject gets the same seeds under a protocol."""
    samples = judge(list(zip(prompts, generate(_requests(prompts, subject, protocol)), strict=True)))
    return Measurement(
        _point(subject, protocol, samples), [_response(subject, protocol, s) for s in samples[:NUM_SHOWN]]
    )


def _requests(prompts: Sequence[Prompt], subject: Subject, protocol: Protocol) -> list[RolloutRequest]:
    sampling = Sampling(
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        max_new_tokens=protocol.max_new_tokens,
        stop_token_ids=protocol.stop_token_ids,
    )
    return [
        RolloutRequest(
            rid=f"evaluate-{subject.weights[:16]}-{protocol.key[:16]}-{i:06d}",
            prompt_id=prompt.id,
            prompt_ids=prompt.token_ids,
            sampling=sampling,
            seed=derive_seed(protocol.seed, f"{protocol.temperature:g}", i),
        )
        for i, prompt in enumerate(prompts)
    ]


def _point(subject: Subject, protocol: Protocol, samples: Sequence[Sample]) -> Point:
    """Ungraded samples are left out of the accuracy and counted; a truncated one counts at its full length."""
    graded = [sample for sample in samples if sample.grade is not Grade.UNGRADED]
    num_right = sum(map(is_right, graded))
    lengths = [float(sample.length) for sample in samples]
    return Point(
        label=subject.label,
        ordinal=subject.ordinal,
        step=subject.step,
        weights=subject.weights,
        protocol=protocol.key,
        temperature=protocol.temperature,
        accuracy=num_right / len(graded) if graded else None,
        accuracy_ci=wilson_interval(num_right, len(graded)),
        mean_length=fmean(lengths),
        mean_length_ci=bootstrap_interval(lengths),
        n=len(samples),
        num_ungraded=len(samples) - len(graded),
        num_truncated=sum(sample.completion.truncated for sample in samples),
        well_formed=fmean(sample.well_formed for sample in samples),
    )


def _response(subject: Subject, protocol: Protocol, sample: Sample) -> Response:
    return Response(
        weights=subject.weights,
        protocol=protocol.key,
        problem=sample.prompt.text,
        gold=sample.prompt.answer,
        text=sample.text,
        grade=sample.grade.value,
        length=sample.length,
        truncated=sample.completion.truncated,
    )
