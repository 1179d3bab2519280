"""Measures the weights that the servers hold on problems never trained on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from egrc_mega.evaluation.records import Point, Protocol, Response, Subject
from egrc_mega.evaluation.statistics.intervals import bootstrap_interval, wilson_interval
from egrc_mega.methods.method import Judge
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Ask, Completion, Drawn, Grade, IntArray, Problem, RolloutRequest, Sample, Sampling

NUM_SHOWN = 32
"""Responses kept for the report, the first problems of the file at every point."""

Generate = Callable[[Sequence[RolloutRequest]], list[Completion]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A problem of the benchmark and its prompt."""

    problem: Problem
    prompt_ids: IntArray
    """int32[P]."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table, and some of the responses behind it."""

    point: Point
    responses: list[Response]


def measure(
    asked: Sequence[Asked], subject: Subject, protocol: Protocol, generate: Generate, judge: Judge
) -> Measurement:
    """Ask for a response to every prompt and grade it. Every subject gets the same seeds under a protocol."""
    requests = _requests(asked, subject, protocol)
    drawn = [
        Drawn(problem=one.problem, ask=Ask(), request=request, completion=completion)
        for one, request, completion in zip(asked, requests, generate(requests), strict=True)
    ]
    samples = judge(drawn, frozenset())
    return Measurement(
        _point(subject, protocol, samples), [_response(subject, protocol, s) for s in samples[:NUM_SHOWN]]
    )


def _requests(asked: Sequence[Asked], subject: Subject, protocol: Protocol) -> list[RolloutRequest]:
    sampling = Sampling(
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        max_new_tokens=protocol.max_new_tokens,
        stop_token_ids=protocol.stop_token_ids,
    )
    return [
        RolloutRequest(
            rid=f"evaluate-{subject.weights[:16]}-{protocol.key[:16]}-{i:06d}",
            prompt_id=one.problem.key,
            prompt_ids=one.prompt_ids,
            sampling=sampling,
            seed=derive_seed(protocol.seed, f"{protocol.temperature:g}", i),
        )
        for i, one in enumerate(asked)
    ]


def _point(subject: Subject, protocol: Protocol, samples: Sequence[Sample]) -> Point:
    """Ungraded samples are left out of the accuracy and counted; a truncated one counts at its full length."""
    graded = [sample for sample in samples if sample.grade is not Grade.UNGRADED]
    num_right = sum(sample.right for sample in graded)
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
        reasons=dict(sorted(Counter(str(sample.reason) for sample in samples if sample.reason).items())),
    )


def _response(subject: Subject, protocol: Protocol, sample: Sample) -> Response:
    return Response(
        weights=subject.weights,
        protocol=protocol.key,
        problem=sample.problem.text,
        gold=sample.problem.answer,
        text=sample.text,
        grade=sample.grade.value,
        length=sample.length,
        truncated=sample.completion.truncated,
        reason=str(sample.reason),
    )
